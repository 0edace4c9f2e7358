"""prune_weights: from a model to a copy of it in which single weights are zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..axis import Axis
from ..inputs.subject import Subject
from ..measuring.counting import mac_terms
from ..planning.budget import Budget
from ..planning.plan import Plan
from ..result import Round
from ..statistics import gather
from ..weights.masking import verify_masks, zeroed
from ..weights.masks import MaskPlan, make_masks, make_pattern
from ..weights.matrices import in_groups, weight_axes
from ..weights.zeros import Sparsity, count, nonzero
from .job import SCORING_BATCH, Job, Outcome
from .mending import mended


def prune_weights(job: Job) -> Outcome:
    """Score single weights, choose, make zero, prove it, repair and train what stays.

    The scores, as many as there are weights, are let go.

    Raises:
        PruneError: One of its children.
    """
    request, subject, watch = job.request, job.subject, job.watch
    with watch("trace"):
        axes, warnings = _matrices(job)
    with watch("score"):
        scores = request.chosen(_informed(job, axes))
    with watch("plan"):
        masks = _planned(job, axes, scores)
        del scores  # as large as the model
    with watch("mask"):
        small = zeroed(subject.model, masks.kept).eval()
    with watch("verify"):
        proof = verify_masks(subject.model, small, masks.kept)
    with watch("count"):
        before = nonzero(subject.model)
        found = _counted(small, masks, subject, before)
    asked = found.removed(request.by) if request.level.pattern else request.fraction
    done = Round(asked, None, masking=proof)
    whole = Plan({}, {}, request.by, asked, asked)  # no slice left
    done = mended(job, subject, small, done, [], whole, masks.kept)
    if request.finetune is not None:
        with watch("train"):
            done = replace(done, trained=job.train_(small, masks.kept))
    if done.repaired or done.trained is not None:  # which may make one more zero, by chance
        found = _counted(small, masks, subject, before)
    plan = Plan({}, {}, request.by, asked, found.removed(request.by))
    return Outcome(
        small,
        plan,
        (done,),
        masks.kinds,
        masks=masks,
        sparsity=found,
        warnings=tuple(warnings),
    )


def _matrices(job: Job) -> tuple[list[Axis], list[str]]:
    """Return the matrices whose weights may become zero, and what was left out of them."""
    axes = weight_axes(job.subject.model, job.subject.adapter, *job.chosen)
    pattern = job.request.level.pattern
    return in_groups(axes, pattern[1]) if pattern else (axes, [])


def _informed(job: Job, axes: list[Axis]) -> list[Axis]:
    chosen = job.request.chosen
    if chosen.needs == "nothing":
        return axes
    return gather(chosen.needs, job.subject.model, axes, job.drawn(SCORING_BATCH), chosen.loss)


def _planned(job: Job, axes: Sequence[Axis], scores: Sequence[Tensor]) -> MaskPlan:
    if job.request.level.pattern:
        return make_pattern(axes, scores, *job.request.level.pattern)
    return make_masks(axes, scores, _budget(job, axes), scope=job.request.competes_in)


def _counted(small: nn.Module, masks: MaskPlan, subject: Subject, before: int) -> Sparsity:
    return count(small, masks.kinds, subject.example, masks.granularity, masks.thresholds, before)


def _budget(job: Job, axes: Sequence[Axis]) -> Budget:
    subject, by, ratio = job.subject, job.request.by, job.request.fraction
    if by == "macs":
        terms = mac_terms(subject.model, [], subject.example)
        return Budget(ratio, "macs", sum(term.cost for term in terms), terms)
    counted = (
        [axis.size for axis in axes]
        if by == "slices"
        else [parameter.numel() for parameter in subject.model.parameters()]
    )
    return Budget(ratio, by, float(sum(counted)))
