"""The words that axes of any model are sorted by; importing this does not import torch."""

NAME = "auto"
MLP, CONV, HEAD, WIDTH = "mlp", "conv", "head", "width"
QKV, PROJ = "qkv", "proj"  # roles beside the kinds
KINDS = (MLP, CONV, HEAD, WIDTH)
INSIDE = (MLP, CONV, HEAD)  # blocks
