"""Who may use the service, for what and how much; what was done with it."""
