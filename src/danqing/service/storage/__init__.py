"""The database of a service, and how its tables change."""
