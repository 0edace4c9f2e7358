"""target_of: what a small layer should make of the outputs that the dense one had."""

from __future__ import annotations

import torch
from torch import Tensor

from ..axis import Axis
from ..repairs.base import Repair
from ..repairs.given import Product
from ..statistics.covariance import ProductCovariance
from ..statistics.unfolding import rows
from ..statistics.walk import Walk
from .gains import Repaired
from .jobs import Job


def target_of(job: Job, repair: Repair, walk: Walk) -> tuple[Tensor, dict[str, Repaired]]:
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


def _factors(job: Job, dense: Tensor) -> Tensor:
    """Return what each row of the dense weight was multiplied with when it was cut."""
    if job.mask is not None:  # nothing was cut, so nothing was folded into it
        return torch.ones(len(dense)).to(dense)
    whole = dense[job.outputs.to(dense.device)][:, job.inputs.to(dense.device)]
    energy = whole.square().sum(1)
    overlap = (whole * job.small.weight.flatten(1).double()).sum(1)
    return torch.where(energy > 0, overlap / energy.clamp(min=1e-300), 1.0)


def _mix_(
    target: Tensor, job: Job, axis: Axis, slices: Tensor, repair: Repair, walk: Walk
) -> Repaired:
    """Let the rows of an axis' queries and keys be mixtures of all the dense ones."""
    index, groups = axis.voters[0].index, axis.spec.groups
    moments = ProductCovariance(index, groups)
    for _, _, outputs, _ in walk.seen(job.name):
        moments.add(rows(job.dense, outputs)[0])
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
