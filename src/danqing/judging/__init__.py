"""People as judges: votes, the ratings that follow from them, and contests."""
