"""Editing: change images with a model, in arrays and in files, and keep what it does not change."""
