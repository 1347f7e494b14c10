"""Graphs, their resources, the local runner and the command line."""
