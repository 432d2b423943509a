"""Networks that were trained elsewhere and come in packages: their weights, found and checked."""
