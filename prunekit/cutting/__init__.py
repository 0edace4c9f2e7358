"""Plans carried out, and the proof that removing equals masking."""
