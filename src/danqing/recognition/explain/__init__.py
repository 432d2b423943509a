"""Which parts of an image, of a prompt or of a network a result comes from."""
