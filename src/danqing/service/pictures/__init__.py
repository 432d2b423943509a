"""Encodes painted pictures as files, and hosts them for an hour."""
