"""What runs beside the client's requests: the predictor and the drift detector."""
