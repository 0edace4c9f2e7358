"""The words that axes of any model are sorted by; importing this does not import torch."""

from ..branch import BLOCK

NAME = "auto"
MLP, CONV, HEAD, HEAD_DIM, WIDTH = "mlp", "conv", "head", "head_dim", "width"
QKV, PROJ = "qkv", "proj"  # roles beside the kinds
KINDS = (MLP, CONV, HEAD, HEAD_DIM, WIDTH, BLOCK)
ASKED = (HEAD_DIM, BLOCK)  # kinds that are proven only for who asks for them
INSIDE = (MLP, CONV, HEAD)  # blocks
