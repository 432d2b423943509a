"""The exit codes of the command besides 0."""

MISTAKE = 2
"""The user's."""
INTERRUPTED = 130
