"""What goes in: architectures, checkpoints, the zoo, images."""
