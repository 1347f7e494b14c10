"""Drift: does the traffic still look like the data that the model was chosen on? Needs numpy and pydantic only.

samples -> features -> profile (calibration builds it) -> charts and windows -> detector.
"""
