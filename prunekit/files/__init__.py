"""Files: what is read is checked, and what is written is there whole or not at all."""
