"""repair_: let what stays make up for what left, one layer after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..errors import AdapterError, RepairError
from ..planning.left import positions_left
from ..planning.plan import Plan
from ..repairs.base import Layer, Product, Repair
from ..statistics.common import Images, precise
from ..statistics.covariance import Covariance, ProductCovariance, can_unfold, patches, rows
from ..statistics.walk import Walk


@dataclass(frozen=True)
class Repaired:
    """How far one layer is from the dense model's.

    Attributes:
        before, after: Mean squared error of its outputs on the calibration images, relative to
            the variance of the dense outputs; for queries and keys that of their products.
    """

    before: float
    after: float


@torch.inference_mode()
def repair_(
    small: nn.Module,
    dense: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    repair: Repair,
    blocks: Sequence[str],
    images: Images,
) -> dict[str, Repaired]:
    """Repair every layer that lost inputs, in the order of execution, and maybe what follows.

    Args:
        small: The pruned model; its weights and biases are written to, its shape stays.
        dense: What it was cut out of.
        axes: What may have shrunk, traced on `dense`.
        plan: What did.
        repair: Computes the new weights of one layer.
        blocks: Modules that run one after the other, see `Adapter.blocks`.
        images: Batches of calibration images; read several times, labels are not looked at.

    Returns:
        What each layer gained, in order.

    Raises:
        AdapterError: The blocks do not run one after the other, or a layer is of a sort that
            cannot be repaired.
        DataError: There are no images.
        RepairError: The repair broke its contract.
    """
    jobs = {job.name: job for job in _jobs(dense, small, axes, plan, repair)}
    walk = Walk(dense, small, images)
    done: dict[str, Repaired] = {}
    for section, names in walk.sections(jobs, blocks):
        walk.enter(section)
        for name in names:
            if jobs[name].cut or (repair.follows and done):
                done |= _refit_(jobs[name], repair, walk)
    return done


@dataclass(frozen=True)
class _Job:
    """One layer to repair.

    Attributes:
        name: Its qualified name.
        dense, small: The layer in either model.
        outputs: Which of the dense layer's outputs are left, (outputs,).
        inputs: Which columns of its flattened weight, (inputs,).
        refits: Whether its inputs are not what they were.
        cut: Whether it lost something itself.
        products: The axes whose queries and keys it makes, with the slices each one keeps.
        axes: All axes, each with the slices it keeps.
    """

    name: str
    dense: Any
    small: Any
    outputs: Tensor
    inputs: Tensor
    refits: bool
    cut: bool
    products: tuple[tuple[Axis, Tensor], ...]
    axes: tuple[tuple[Axis, Tensor], ...]

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


def _jobs(
    dense: nn.Module, small: nn.Module, axes: Sequence[Axis], plan: Plan, repair: Repair
) -> Iterator[_Job]:
    """Find the layers that miss inputs, those whose products miss terms, and all others."""
    products: dict[str, list[tuple[Axis, Tensor]]] = {}
    slices_left = tuple((axis, torch.tensor(plan.kept[axis.name])) for axis in axes)
    for axis, slices in slices_left:
        if axis.spec.product and repair.product and len(slices) < axis.size:
            layer = axis.voters[0].name.rpartition(".")[0]
            products.setdefault(layer, []).append((axis, slices))
    left = positions_left(axes, plan)
    for name, layer in dense.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        dims = left.get(f"{name}.weight", {})
        outputs, channels = (dims.get(dim, torch.arange(layer.weight.shape[dim])) for dim in (0, 1))
        misses = len(channels) < layer.weight.shape[1]
        cut = misses or name in products
        if cut or (repair.follows and can_unfold(layer)):
            run = layer.weight[0, 0].numel()  # columns of every channel in the flattened weight
            inputs = (channels.unsqueeze(1) * run + torch.arange(run)).flatten()
            yield _Job(
                name,
                layer,
                small.get_submodule(name),
                outputs,
                inputs,
                misses or repair.follows,
                cut,
                tuple(products.get(name, ())),
                slices_left,
            )


def _refit_(job: _Job, repair: Repair, walk: Walk) -> dict[str, Repaired]:
    """Write new weights into one layer of the small model."""
    dtype = job.small.weight.dtype
    target, gains = _target(job, repair, walk)  # (outputs left, dense outputs)
    dense = job.dense.weight.flatten(1).double()
    bias = None if job.dense.bias is None else target @ job.dense.bias.double()
    weight = (target @ dense)[:, job.inputs.to(dense.device)]
    if job.refits:
        layer = _layer(job, repair, walk, target, weight, bias)
        weight, bias = repair(layer, dtype)
        gain = Repaired(layer.error(layer.weight, layer.bias), layer.error(weight, bias))
        if not math.isfinite(gain.after):
            raise RepairError(
                f"{repair.title} made weights of layer {job.name!r} so large that its outputs are "
                "no finite numbers; correct it, or choose another."
            )
        gains[job.name] = gain
    repair.check_finite(job.name, dtype, weight, bias)  # mixtures are not refitted by every repair
    job.small.weight.copy_(weight.view_as(job.small.weight))
    if bias is not None:
        job.small.bias.copy_(bias)
    return gains


def _layer(
    job: _Job, repair: Repair, walk: Walk, target: Tensor, weight: Tensor, bias: Tensor | None
) -> Layer:
    """Gather what is known of a layer that misses inputs."""
    moments = Covariance()
    for count, x, y, left in walk.seen(job.name):
        x, y = job.rows_left(x, left), job.rows_left(y, left)
        if repair.inputs == "repaired":
            inputs = patches(job.small, left)
        else:
            inputs = patches(job.dense, x)[:, job.inputs.to(x.device)]
        outputs = precise(rows(job.dense, y))
        moments.add(inputs, outputs @ target.T.to(outputs.dtype), count)
    halves = tuple(Layer(job.name, weight, bias, *moments.finish(half)) for half in (0, 1))
    both = Layer(job.name, weight, bias, *moments.finish(0, 1))
    return replace(both, halves=halves) if all(moments.samples) else both


def _target(job: _Job, repair: Repair, walk: Walk) -> tuple[Tensor, dict[str, Repaired]]:
    """Return what the small layer should make of the dense layer's outputs, (left, dense).

    Mostly that is to select those that are left. The attention scale may have been folded into
    some, and queries and keys may become mixtures of all there were.
    """
    dense = job.dense.weight.flatten(1).double()
    target = torch.zeros(len(job.outputs), len(dense), dtype=dense.dtype, device=dense.device)
    target[range(len(job.outputs)), job.outputs.to(dense.device)] = _factors(job, dense)
    gains = {}
    for axis, slices in job.products:
        gains[axis.name] = _mix_(target, job, axis, slices, repair, walk)
    return target, gains


def _factors(job: _Job, dense: Tensor) -> Tensor:
    """Return what each row of the dense weight was multiplied with when it was cut."""
    whole = dense[job.outputs.to(dense.device)][:, job.inputs.to(dense.device)]
    energy = whole.square().sum(1)
    overlap = (whole * job.small.weight.flatten(1).double()).sum(1)
    return torch.where(energy > 0, overlap / energy.clamp(min=1e-300), 1.0)


def _mix_(
    target: Tensor, job: _Job, axis: Axis, slices: Tensor, repair: Repair, walk: Walk
) -> Repaired:
    """Let the rows of an axis' queries and keys be mixtures of all the dense ones."""
    index, groups = axis.voters[0].index, axis.spec.groups
    moments = ProductCovariance(index, groups)
    for _, _, outputs, _ in walk.seen(job.name):
        moments.add(rows(job.dense, outputs))
    before = after = 0.0
    where = {int(output): row for row, output in enumerate(job.outputs)}
    for group, (queries, keys) in enumerate(zip(*moments.finish(), strict=True)):
        positions = index.view(groups, -1, 2)[group]  # (dim, 2)
        kept = slices.view(groups, -1)[group] - group * len(positions)
        if int(positions[kept[0], 0]) not in where:  # the whole head is gone
            continue
        product = Product(f"{axis.name}, head {group}", queries, keys, kept)
        mixes = repair.mix(product)
        chosen = torch.eye(len(positions)).to(queries)[kept]
        before += product.error(chosen, chosen) / groups
        after += product.error(*mixes) / groups
        for side, mix in enumerate(mixes):
            own = [where[int(output)] for output in positions[kept, side]]
            factors = target[own].sum(1, keepdim=True)  # so far each row selects one output
            target[torch.tensor(own).unsqueeze(1), positions[:, side]] = factors * mix
    return Repaired(before, after)
