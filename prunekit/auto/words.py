"""The words that axes of any model are sorted by; importing this does not import torch."""

NAME = "auto"
MLP, CONV, WIDTH = "mlp", "conv", "width"
KINDS = (MLP, CONV, WIDTH)
INSIDE = (MLP, CONV)  # blocks
