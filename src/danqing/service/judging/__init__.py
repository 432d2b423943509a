"""Sessions in which people judge pictures: who may join, what they are shown, how they voted."""
