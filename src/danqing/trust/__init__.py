"""Provenance of images, signed and encrypted models, and filters of what is generated."""
