"""shifted_by: which BatchNorm can take up a shift of what a layer makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .copies import BATCH_NORMS
from .layers import MATRICES

MAKERS = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
NORMS = (F.batch_norm, torch.batch_norm)


def shifted_by(model: nn.Module, inputs: Tensor) -> dict[str, str]:
    """Pair layers without a bias with the BatchNorm that alone reads them.

    To add to the outputs of such a layer is to take the same off the running mean, in evaluation.

    Args:
        model: Run once, in the mode that it is in.
        inputs: One batch.

    Returns:
        Names of linear layers and convolutions, to that of their BatchNorm.
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        result = model(inputs)
    for leaf in tree_leaves(result):
        watch.read(leaf, None)
    norms = [norm for readers in watch.readers.values() for norm in readers]
    return {
        layer: norm
        for layer, (norm, *others) in watch.readers.items()
        if norm is not None and not others and norms.count(norm) == 1
    }


class _Watch(TorchFunctionMode):
    """Sees who reads what layers make.

    Attributes:
        readers: Layer to the BatchNorms that read it, None for all else.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.readers: dict[str, list[str | None]] = {}
        self._layers, self._norms = {}, {}
        for name, module in model.named_modules():
            if isinstance(module, MATRICES):
                if module.bias is None:
                    self._layers[id(module.weight)] = name
            elif isinstance(module, BATCH_NORMS) and module.running_mean is not None:
                self._norms[id(module.running_mean)] = name
        self._made: dict[int, tuple[str, Tensor]] = {}  # outputs are kept, so that no id is reused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # else it is a size
            values = tree_leaves((args, kwargs))
            found = [self._norms[id(value)] for value in values if id(value) in self._norms]
            norm = found[0] if func in NORMS and found else None
            for value in values:
                self.read(value, norm)
        if func in MAKERS and (name := self._layers.get(id(args[1]))) is not None:
            self._made[id(result)] = name, result
        return result

    def read(self, value: object, norm: str | None) -> None:
        """Take note that something reads a value."""
        if id(value) in self._made:
            self.readers.setdefault(self._made[id(value)][0], []).append(norm)
