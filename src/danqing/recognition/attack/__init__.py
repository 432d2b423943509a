"""Attacks: small changes of images that mislead a model, as pure functions of a differentiable objective."""
