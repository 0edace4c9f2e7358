"""What may shrink in a model of any family, found from the operations that it runs."""
