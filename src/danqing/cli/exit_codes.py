"""The exit codes of the command besides 0."""

MISTAKE = 2
"""The user's."""
INTERRUPTED = 130
"""After Ctrl-C, as in shells: 128 plus the number of the signal."""
