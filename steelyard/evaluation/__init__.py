"""ModelBundle + Dataset -> Scorecard."""
