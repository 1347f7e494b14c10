"""The sidecar that watches what the predictor answers. Read in this order: __main__, worker, watch, pages."""
