"""Data sets and runs of keys: uploaded, checked, trained on in processes of their own, put into service."""
