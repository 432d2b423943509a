"""Scores that can be repeated and believed: feature networks, metrics, and `evaluate`."""
