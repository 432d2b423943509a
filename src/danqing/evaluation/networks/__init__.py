"""Networks that images are compared by; `open_network` finds one by name."""
