"""Pretrained pipelines of `diffusers`: found, checked, measured and loaded."""
