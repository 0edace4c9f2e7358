"""Single weights: which become zero, and what that saves."""
