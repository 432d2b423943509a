"""Requests that run in the background."""
