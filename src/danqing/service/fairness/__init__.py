"""How limited resources are shared between the owners of requests."""
