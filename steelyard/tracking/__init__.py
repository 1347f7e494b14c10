"""Runs, the memory of trainings, and the model registry; the only user of mlflow."""
