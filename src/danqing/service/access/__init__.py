"""Access control: keys, limits, usage and the audit log."""
