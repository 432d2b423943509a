"""A trained model: its folder, its card, what is requested of it, and where it is found."""
