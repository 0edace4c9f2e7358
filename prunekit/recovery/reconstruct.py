"""repair_: let what stays make up for what left, one layer after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..errors import RepairError
from ..naming import is_within
from ..planning.left import gone
from ..planning.plan import Plan
from ..repairs.base import Repair
from ..repairs.given import Layer
from ..statistics.common import Images, first_weight, placed, precise, without_labels
from ..statistics.covariance import Covariance
from ..statistics.unfolding import NoLinearMap, patches, positions, rows
from ..statistics.walk import Walk
from ..tracing.batch_norms import shifted_by
from .constants import recentre_
from .gains import Mended, Repaired
from .jobs import Job, jobs_of, masked_jobs
from .products import target_of

IDLE = "it takes no part in evaluation"


@torch.inference_mode()
def repair_(
    small: nn.Module,
    dense: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    repair: Repair,
    blocks: Sequence[str],
    images: Images,
    part: str = "",
    kept: Mapping[str, Tensor] | None = None,
) -> Mended:
    """Repair every layer that lost inputs or single weights, and maybe what follows, in order.

    Where a whole branch left, its constant becomes what the branch added on average.

    Args:
        small: The pruned model; its weights and biases are written to, its shape stays. So are
            the running means of BatchNorms after layers without a bias, which take up the shift
            that a bias would.
        dense: What it was cut out of.
        axes: What may have shrunk, traced on `dense`.
        plan: What did.
        repair: Computes the new weights of one layer, or of one group of a convolution.
        blocks: Modules that run one after the other, see `Adapter.blocks`.
        images: Batches of calibration images; read several times, labels are not looked at.
        part: Name of the module whose layers may change; all may unless given.
        kept: Parameter to which of its values stay, where single weights became zero.

    Raises:
        AdapterError: The blocks do not run one after the other, or it is not known what a layer
            lost.
        DataError: There are no images.
        RepairError: The repair broke its contract.
    """
    image = placed(next(iter(without_labels(images)))[:1], first_weight(dense))
    norms = shifted_by(dense, image)
    if kept is None:
        found = jobs_of(dense, small, axes, plan, repair, norms)
    else:
        found = masked_jobs(dense, small, kept, repair, norms)
    jobs = {job.name: job for job in found if is_within(job.name, part)}
    branches = {one.modules[-1]: one for one in gone(axes, plan)}
    walk = Walk(dense, small, images)
    done, changed = Mended(), False
    sections = walk.sections({*jobs, *branches}, blocks)
    running = {name for _, names in sections for name in names}
    done.left = {name: IDLE for name, job in jobs.items() if job.cut and name not in running}
    for section, names in sections:
        walk.enter(section)
        for number, name in enumerate(names):
            if name in branches:
                done.layers |= recentre_(dense, small, branches[name], walk)
                changed = True
                continue
            if not (jobs[name].cut or (repair.follows and changed)):
                continue
            try:
                done.layers |= _refit_(jobs[name], repair, walk, names[number + 1 :])
                changed = True
            except NoLinearMap as error:
                if jobs[name].cut:
                    done.left[name] = str(error)
    return done


def _refit_(job: Job, repair: Repair, walk: Walk, later: Sequence[str]) -> dict[str, Repaired]:
    """Write new weights into one layer of the small model; others come later in the section."""
    dtype = job.small.weight.dtype
    target, gains = target_of(job, repair, walk)  # (outputs left, dense outputs)
    dense = job.dense.weight.flatten(1).double()
    bias = None if job.bias is None else target @ job.bias.double()
    weight = (target @ dense)[:, job.inputs.to(dense.device)]
    if job.mask is not None:
        weight = weight.masked_fill(~job.mask, 0)
    if job.refits:
        layers = _layers(job, repair, walk, target, weight, bias, later)
        found = [repair(layer, dtype) for layer in layers]
        gain = _gain(layers, [(layer.weight, layer.bias) for layer in layers], found)
        if not math.isfinite(gain.after):
            raise RepairError(
                f"{repair.title} made weights of layer {job.name!r} so large that its outputs are "
                "no finite numbers; correct it, or choose another."
            )
        gains[job.name] = gain
        weight = torch.cat([one for one, _ in found])
        bias = None if bias is None else torch.cat([one for _, one in found if one is not None])
    repair.check_finite(job.name, dtype, weight, bias)  # mixtures are not refitted by every repair
    job.write_(weight, bias)
    return gains


def _gain(
    layers: Sequence[Layer],
    before: Sequence[tuple[Tensor, Tensor | None]],
    after: Sequence[tuple[Tensor, Tensor | None]],
) -> Repaired:
    """Return what all groups of a layer gained together."""
    scale = sum(layer.scale for layer in layers)
    errors = (
        sum(layer.loss(*own) for layer, own in zip(layers, maps, strict=True)) / scale
        for maps in (before, after)
    )
    return Repaired(*errors)


def _layers(
    job: Job,
    repair: Repair,
    walk: Walk,
    target: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    later: Sequence[str],
) -> list[Layer]:
    """Gather what is known of a layer that misses inputs, group by group."""
    groups, count = job.groups.to(target.device), len(job.groups)
    parts = target.view(count, len(target) // count, job.whole, target.shape[1] // job.whole)
    wanted = parts[torch.arange(count, device=target.device), :, groups]  # (groups, left, dense)
    taken, from_dense = _taken(wanted), repair.inputs == "dense"
    moments, generator = Covariance(), torch.Generator().manual_seed(0)
    for images, x, y, left in walk.seen(job.name, None if from_dense else later):
        at = positions(job.dense, y, generator)
        if from_dense:
            assert x is not None, "nothing was held"
            inputs = patches(job.dense, job.rows_left(x, left), at)[groups]
            inputs = inputs[:, :, job.inputs.to(x.device)]
        else:
            inputs = patches(job.small, left, at)
        outputs = precise(rows(job.dense, job.rows_left(y, left), at))[groups]
        moments.add(inputs, taken(outputs), images)
    weights = weight.view(count, -1, weight.shape[1])  # (groups, left, inputs)
    masks = [None] * count if job.mask is None else job.mask.view(weights.shape)
    biases = [None] * count if bias is None else bias.view(count, -1)

    def known(*halves: int) -> list[Layer]:
        found: Any = moments.finish(*halves)
        layers = (
            Layer(_named(job, n), weights[n], biases[n], *[moment[n] for moment in found])
            for n in range(count)
        )
        return [replace(layer, mask=mask) for layer, mask in zip(layers, masks, strict=True)]

    if not all(moments.samples):
        return known(0, 1)
    parted = zip(known(0, 1), known(0), known(1), strict=True)
    return [replace(both, halves=tuple(halves)) for both, *halves in parted]


def _taken(wanted: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what makes the outputs that are wanted of the dense ones, (groups, n, outputs).

    Most often each is one of them, or a multiple of one, and nothing has to be multiplied out.
    """
    if len(wanted) > 1 or int((wanted != 0).sum(-1).max()) > 1:
        return lambda outputs: outputs @ wanted.mT.to(outputs.dtype)
    index, factors = wanted[0].abs().argmax(-1), wanted[0].sum(-1)
    return lambda outputs: outputs.index_select(-1, index) * factors.to(outputs.dtype)


def _named(job: Job, group: int) -> str:
    return job.name if job.whole == 1 else f"{job.name}, group {int(job.groups[group])}"
