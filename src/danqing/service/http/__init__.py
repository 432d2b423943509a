"""The path of every request: the protocol, the gate, limits and errors."""
