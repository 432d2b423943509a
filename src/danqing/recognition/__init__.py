"""What is done with images besides generating them: search, cleaning, attacks, explanations."""
