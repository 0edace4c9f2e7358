"""chain_of: modules of any model that run one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..arguments import Inputs, batch_of, call, tensors_of
from ..errors import AdapterError
from .layers import MATRICES
from .running import dry_run

LARGEST = 6  # what is held between two modules, in sizes of the image
Key = tuple[int, int]  # a tensor, and how often it was written to


@dataclass(frozen=True)
class _Path:
    """Modules in a row.

    Attributes:
        layers: How many layers with weights they hold.
        modules: Their names.
    """

    layers: int = 0
    modules: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """Many layers are better, then many modules to share them."""
        return self.layers, len(self.modules)


def chain_of(model: nn.Module, example: Inputs) -> list[str]:
    """Name modules that run one after the other, each on the output of the one before alone.

    Of all such rows it is the one that holds most layers, in the smallest parts. Modules whose
    input is large are left out: they come early, and are reached soon anyway.

    Args:
        model: Left untouched.
        example: One batch of inputs.
    """
    try:
        return dry_run(model, batch_of(example), _longest)
    except AdapterError:  # whoever runs it in earnest says why
        return []


def _longest(model: nn.Module, inputs: Inputs) -> list[str]:
    entered: dict[str, list[Key | None]] = {}
    left: list[tuple[str, int, Key]] = []  # in the order in which modules returned
    alive: list[Tensor] = []  # so that no id is reused
    limit = LARGEST * sum(tensor.numel() for tensor in tensors_of(inputs))

    def key(value: Tensor) -> Key:
        alive.append(value)
        return id(value), value._version

    def enter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alone = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        fits = alone and args[0].numel() <= limit
        entered.setdefault(name, []).append(key(args[0]) if fits else None)

    def leave(name: str, layers: int, output: Any) -> None:
        if isinstance(output, Tensor):
            left.append((name, layers, key(output)))

    handles = []
    for name, module in model.named_modules():
        layers = sum(isinstance(part, MATRICES) for part in module.modules())
        if name:
            handles += [
                module.register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: enter(name, args, kwargs), with_kwargs=True
                ),
                module.register_forward_hook(
                    lambda _, args, out, name=name, n=layers: leave(name, n, out)
                ),
            ]
    try:
        call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    paths: dict[Key, _Path] = {}
    for name, layers, end in left:
        (start, *more) = entered[name]
        if start is None or more or end == start:  # what runs twice has no place in a row
            continue
        before = paths.get(start, _Path())
        path = _Path(before.layers + layers, (*before.modules, name))
        if path.rank > paths.get(end, _Path()).rank:
            paths[end] = path
    return list(max(paths.values(), key=lambda path: path.rank, default=_Path()).modules)
