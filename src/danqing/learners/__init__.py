"""Learners that recognise instead of generate: one file each, registered with the families."""
