"""What every request passes: the protocol, the gate, limits and errors."""
