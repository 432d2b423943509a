"""A trained model: its folder, its card, what it is asked for, and where it is found."""
