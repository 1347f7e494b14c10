"""One Candidate + Dataset -> trained weights -> ModelBundle."""
