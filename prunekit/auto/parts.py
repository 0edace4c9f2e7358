"""Parted: modules that split channels by sizes that they keep."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import AxisSpec
from .forwards import sizes_of


@dataclass(frozen=True)
class Parted:
    """One module that splits channels.

    Attributes:
        module: Its name.
        attribute: What it keeps sizes in.
        value: These: one for each part, one for all, or that of all together.
        sizes: Of the parts.
        tensor: The parameter whose positions the channels are.
        dim: Along this dimension.
    """

    module: str
    attribute: str
    value: Any
    sizes: tuple[int, ...]
    tensor: str
    dim: int

    @property
    def ends(self) -> Tensor:
        """Where each part ends."""
        return torch.tensor(self.sizes).cumsum(0)

    def counts(self, positions: Tensor) -> Tensor:
        """Return how many of some positions are in each part."""
        where = torch.bucketize(positions, self.ends, right=True)
        return where.bincount(minlength=len(self.sizes))

    def after(self, positions: Tensor) -> Any:
        """Return what the attribute is to be when these positions are left."""
        counts = self.counts(positions).tolist()
        if not isinstance(self.value, int):
            return type(self.value)(counts)
        return sum(counts) if self.value == sum(self.sizes) else counts[0]

    def allows(self, spec: AxisSpec) -> bool:
        """Say whether no part can lose all: every slice of an axis has as much of each part."""
        for tie in spec.ties:
            if (tie.parameter, tie.dim) == (self.tensor, self.dim):
                rows = [self.counts(row).tolist() for row in tie.fold.index()]
                if any(row != rows[0] for row in rows):
                    return False
        return True


def splitting(
    names: Mapping[int, str], asked: int | list[int], length: int
) -> tuple[str, str, Any] | None:
    """Return the module that runs now, its attribute that says the sizes of parts, and its value.

    Args:
        names: Of all modules, by their identity.
        asked: The sizes, or the one size, that an operation was given.
        length: Of what is split.
    """
    frame = sys._getframe(1)
    while frame is not None and id(frame.f_locals.get("self")) not in names:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return None
    module = frame.f_locals["self"]
    shaping = sizes_of(type(module))  # type: ignore[arg-type]
    found = [name for name in shaping if _says(vars(module).get(name), asked, length)]
    if len(found) != 1:
        return None
    return names[id(module)], found[0], vars(module)[found[0]]


def _says(value: Any, asked: int | list[int], length: int) -> bool:
    each = {asked} if isinstance(asked, int) else set(asked)
    if type(value) is int:
        return value == length or each == {value}
    return isinstance(value, list | tuple) and list(value) == asked


def resize_(
    model: nn.Module, parted: Iterable[Parted], left: Mapping[str, Mapping[int, Tensor]]
) -> None:
    """Reset the sizes that modules keep.

    Args:
        model: The smaller model.
        parted: What was found in the larger one.
        left: Tensor and dimension to the positions that are left.
    """
    for one in parted:
        positions = left.get(one.tensor, {}).get(one.dim)
        if positions is not None:
            setattr(model.get_submodule(one.module), one.attribute, one.after(positions))
