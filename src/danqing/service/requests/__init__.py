"""From the fields of a request to a plan of what to paint."""
