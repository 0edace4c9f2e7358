"""What recovers accuracy after a cut: repairs carried out, and training."""
