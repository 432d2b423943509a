"""Experiments over many runs: families side by side, and the search for settings."""
