"""KFP wrappers: one file a component; each imports only the standard library and kfp at module level."""
