"""What may come in, as Hypothesis strategies."""
