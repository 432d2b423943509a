"""Training: configuration, the step, the run, and what it writes down."""
