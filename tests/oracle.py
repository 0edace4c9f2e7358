"""An oracle for pruned models that shares no code with prunekit.

It finds which channels of which layers are left by looking for the small model's weights among the
large one's, and runs the large model with hooks that silence all others where they are read.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from timm.layers import Conv2dSame
from torch import nn

READERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
STANDARDISED = ("StdConv2d", "ScaledStdConv2d", "WeightStandardizedConv2d")


def vary_(model):
    """Give every channel weights of its own that matter: vectors, too, and layer scales."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def plain(large):
    """Return the large model with plain convolutions where it standardises weights."""
    model = copy.deepcopy(large).eval()
    for name, layer in list(model.named_modules()):
        if type(layer).__name__.startswith(STANDARDISED):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _unstandardised(layer))
    return model


def _unstandardised(layer):
    """Return a convolution with the weight that a layer uses, computed in the same way."""
    gain = (layer.gain * layer.scale).view(-1) if hasattr(layer, "gain") else None
    rows = layer.weight.reshape(1, layer.out_channels, -1)
    rows = nn.functional.batch_norm(rows, None, None, gain, None, True, 0.0, layer.eps)
    sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
    rest = {"dilation": layer.dilation, "groups": layer.groups, "bias": layer.bias is not None}
    if getattr(layer, "same_pad", False):
        made = Conv2dSame(*sizes, **rest)
    else:
        made = nn.Conv2d(*sizes, padding=layer.padding, **rest)
    made.weight = nn.Parameter(rows.detach().reshape_as(layer.weight))
    made.bias = layer.bias
    return made


def expected(large, small, x):
    """Return what the large model computes without the channels that the small one lacks."""
    model = copy.deepcopy(large).eval()
    layers = dict(small.named_modules())
    for name, layer in list(model.named_modules()):
        if isinstance(layer, READERS) and layer.weight.shape[1] > layers[name].weight.shape[1]:
            layer.register_forward_pre_hook(_silencing(layer, layers[name]))
        elif _is_norm(layer) and len(layer.weight) > len(layers[name].weight):
            layer.register_forward_hook(_normalising(layer, layers[name]))
    with torch.no_grad():
        return model(x)


def _silencing(large, small):
    kept = found(large.weight, small.weight)
    groups = getattr(large, "groups", 1)
    each = large.weight.shape[1]
    silent = torch.ones(each, dtype=torch.bool)
    silent[kept] = False
    silent = silent.repeat(groups)
    dim = -1 if isinstance(large, nn.Linear) else 1

    def silence(module, args):
        x = args[0].transpose(dim, -1).clone()
        x[..., silent] = 0
        return (x.transpose(dim, -1), *args[1:])

    return silence


def _normalising(large, small):
    kept = _of_vector(large.weight, small.weight)

    def normalise(module, args, output):
        (x,) = args
        channels = [d for d, size in enumerate(x.shape) if size == len(large.weight) and d]
        dim = channels[-1] if x.shape[-1] == len(large.weight) else 1
        out = torch.zeros_like(output)
        return out.index_copy(dim, kept, small(x.index_select(dim, kept)))

    return normalise


def _is_norm(layer):
    known = "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm"
    return any(word in type(layer).__name__ for word in known) and layer.weight is not None


def found(large, small):
    """Return which columns of a matrix, or of a kernel's, are left: (out, in, ...) -> (in,)."""
    values = large.detach().flatten(2).numpy() if large.dim() > 2 else large.detach().numpy()
    wanted = small.detach().flatten(2).numpy() if large.dim() > 2 else small.detach().numpy()
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    at = np.searchsorted(flat, wanted.ravel(), sorter=order).clip(max=flat.size - 1)
    where = np.unravel_index(order[at], values.shape)[1].reshape(wanted.shape)
    votes = np.moveaxis(where, 1, 0).reshape(wanted.shape[1], -1)
    return torch.tensor([np.bincount(column).argmax() for column in votes])


def _of_vector(large, small):
    places = {value: n for n, value in enumerate(large.tolist())}
    return torch.tensor([places[value] for value in small.tolist()])
