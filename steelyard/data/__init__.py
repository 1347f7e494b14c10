"""Raw images -> Dataset. Decoding and resizing live here once, for training and serving alike."""
