"""Danqing."""
