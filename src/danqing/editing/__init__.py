"""Editing: change images with a model, in arrays and in files, without losing what the model does not change."""
