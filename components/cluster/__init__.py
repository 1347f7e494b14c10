"""What steelyard says to a Kubernetes cluster: one client's InferenceService put in place, watched and tried out."""
