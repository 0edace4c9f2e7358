"""A grid of runs, what came of them, and what that says."""
