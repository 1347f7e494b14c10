"""Scorecards + Contract -> Selection, and the report that proves it."""
