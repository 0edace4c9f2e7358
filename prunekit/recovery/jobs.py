"""Job: a layer to repair, and what became of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..errors import AdapterError
from ..naming import is_within
from ..planning.left import gone, of_positions, positions_left
from ..planning.plan import Plan
from ..repairs.base import Repair
from ..tracing.layers import MATRICES


@dataclass(frozen=True)
class Job:
    """One layer to repair.

    Attributes:
        name: Its qualified name.
        dense, small: The layer in either model.
        norms: The BatchNorm in either model whose running mean takes up what a bias would add;
            None if the layer has a bias, or no such BatchNorm.
        outputs: Which of the dense layer's outputs are left, (outputs,).
        inputs: Which columns of its flattened weight, the same in every group, (inputs,).
        refits: Whether its inputs are not what they were.
        cut: Whether it lost something itself.
        products: The axes whose queries and keys it makes, with the slices each one keeps.
        axes: All axes, each with the slices it keeps.
        mask: Which weights stay, as the flattened weight, where single ones became zero; else
            None.
    """

    name: str
    dense: Any
    small: Any
    norms: tuple[Any, Any] | None
    outputs: Tensor
    inputs: Tensor
    refits: bool
    cut: bool
    products: tuple[tuple[Axis, Tensor], ...]
    axes: tuple[tuple[Axis, Tensor], ...]
    mask: Tensor | None = None

    @property
    def whole(self) -> int:
        """How many groups the dense layer has; a linear layer is one."""
        return int(getattr(self.dense, "groups", 1))

    @property
    def groups(self) -> Tensor:
        """Which of them are left, (groups,)."""
        own: Tensor = torch.unique(self.outputs // (len(self.dense.weight) // self.whole))
        return own

    @property
    def bias(self) -> Tensor | None:
        """What the dense layer adds, (dense outputs,); None if nothing can."""
        if self.norms is not None:
            return torch.zeros(len(self.dense.weight)).to(self.dense.weight)
        found: Tensor | None = self.dense.bias
        return found

    def write_(self, weight: Tensor, bias: Tensor | None) -> None:
        """Write into the small model: the weight, and the bias or what stands for it.

        Args:
            weight: (outputs, inputs of a group).
            bias: (outputs,).
        """
        self.small.weight.copy_(weight.view_as(self.small.weight))
        if self.norms is not None:
            dense, small = (norm.running_mean for norm in self.norms)
            small.copy_(dense[self.outputs.to(dense.device)].double() - bias)
        elif bias is not None:
            self.small.bias.copy_(bias)

    def rows_left(self, values: Tensor, left: Tensor) -> Tensor:
        """Select from the dense layer's inputs or outputs the rows that the small one still has.

        A layer that mixes tokens runs on every channel by itself, and some of those are gone.

        Args:
            values: Inputs or outputs of the dense layer, (images, ..., features).
            left: The small layer's inputs, (images, ..., features).

        Raises:
            AdapterError: Nobody can tell which rows are left.
        """
        if not isinstance(self.dense, nn.Linear):
            return values  # its channels are its features
        for dim in range(1, values.dim() - 1):
            sizes = values.shape[dim], left.shape[dim]
            if sizes[0] == sizes[1]:
                continue
            found = {
                tuple(slices.tolist())
                for axis, slices in self.axes
                if (axis.size, len(slices)) == sizes
            }
            if len(found) != 1:
                raise AdapterError(
                    f"The layer {self.name!r} runs on {sizes[1]} of {sizes[0]} channels, and it is "
                    "not known on which, so it cannot be repaired. Leave out the axis of those "
                    "channels with exclude, or use the repair 'none'."
                )
            values = values.index_select(dim, torch.tensor(found.pop(), device=values.device))
        return values


def jobs_of(
    dense: nn.Module,
    small: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    repair: Repair,
    norms: Mapping[str, str],
) -> Iterator[Job]:
    """Find the layers that miss inputs, those whose products miss terms, and all others.

    Args:
        dense: What was cut.
        small: What it became.
        axes: What may have shrunk, traced on `dense`.
        plan: What did.
        repair: Says whether it is given the others too.
        norms: Layer to the BatchNorm that can take up a shift of its outputs.
    """
    products: dict[str, list[tuple[Axis, Tensor]]] = {}
    removed = [module for branch in gone(axes, plan) for module in branch.modules]
    axes = of_positions(axes)
    slices_left = tuple((axis, torch.tensor(plan.kept[axis.name])) for axis in axes)
    for axis, slices in slices_left:
        if axis.spec.product and repair.product and len(slices) < axis.size:
            layer = axis.voters[0].name.rpartition(".")[0]
            products.setdefault(layer, []).append((axis, slices))
    left = positions_left(axes, plan)
    for name, layer in dense.named_modules():
        if not isinstance(layer, MATRICES) or any(is_within(name, part) for part in removed):
            continue
        dims = left.get(f"{name}.weight", {})
        outputs, channels = (dims.get(dim, torch.arange(layer.weight.shape[dim])) for dim in (0, 1))
        misses = len(channels) < layer.weight.shape[1]
        cut = misses or name in products
        if not cut and not repair.follows:
            continue
        run = layer.weight[0, 0].numel()  # columns of every channel in the flattened weight
        yield Job(
            name,
            layer,
            small.get_submodule(name),
            _in_both(dense, small, norms.get(name)),
            outputs,
            (channels.unsqueeze(1) * run + torch.arange(run)).flatten(),
            misses or repair.follows,
            cut,
            tuple(products.get(name, ())),
            slices_left,
        )


def masked_jobs(
    dense: nn.Module,
    small: nn.Module,
    kept: Mapping[str, Tensor],
    repair: Repair,
    norms: Mapping[str, str],
) -> Iterator[Job]:
    """Find the layers of which single weights became zero, and the others if they are wanted.

    Args:
        dense: What was masked.
        small: What it became, of the same shape.
        kept: Parameter to which of its values stay.
        repair: Says whether it is given the others too.
        norms: Layer to the BatchNorm that can take up a shift of its outputs.
    """
    for name, layer in dense.named_modules():
        mask = kept.get(f"{name}.weight")
        if not isinstance(layer, MATRICES) or (mask is None and not repair.follows):
            continue
        yield Job(
            name,
            layer,
            small.get_submodule(name),
            _in_both(dense, small, norms.get(name)),
            torch.arange(len(layer.weight)),
            torch.arange(layer.weight[0].numel()),
            refits=True,
            cut=mask is not None,
            products=(),
            axes=(),
            mask=None if mask is None else mask.flatten(1).to(layer.weight.device),
        )


def _in_both(dense: nn.Module, small: nn.Module, name: str | None) -> tuple[Any, Any] | None:
    """Return a module of either model; None if there is none."""
    return None if name is None else (dense.get_submodule(name), small.get_submodule(name))
