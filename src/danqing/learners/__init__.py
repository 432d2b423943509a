"""Learners that recognize instead of generate: one file each, registered with the families."""
