"""The gallery: each owner's pictures with their settings, found by words and by likeness."""
