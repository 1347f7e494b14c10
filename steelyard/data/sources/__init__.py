"""Where images come from: each source lists its items, and loads one when asked."""
