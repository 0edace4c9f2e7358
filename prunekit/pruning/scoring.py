"""What the criterion says: scores of all slices, and which to keep where so many stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..axis import Axis
from ..planning.budget import Term
from ..planning.plan import Plan
from ..planning.prices import priced
from ..statistics import gather
from .job import SCORING_BATCH, Job

STATISTICS = "statistics"  # what a criterion needs, among what runs share


def scored(job: Job, axes: Sequence[Axis], terms: Sequence[Term]) -> list[Tensor]:
    """Let the criterion score all axes; runs that ask the same share the answer."""
    chosen = job.request.chosen
    return job.shared.once(
        "scores", (_seen(job), chosen), lambda: chosen(informed(job, axes, terms))
    )


def refined(job: Job, axes: Sequence[Axis], plan: Plan, terms: Sequence[Term]) -> Plan:
    """Let the criterion exchange slices that a plan keeps for better ones, if it does that."""
    chosen = job.request.chosen
    if chosen.refine is None:
        return plan
    kept = {
        axis.name: plan.kept[axis.name]
        if len(plan.kept[axis.name]) in (0, axis.size)
        else chosen.refined(axis, plan.kept[axis.name])
        for axis in informed(job, axes, terms)
    }
    return replace(plan, kept=kept)


def informed(job: Job, axes: Sequence[Axis], terms: Sequence[Term]) -> list[Axis]:
    """Return the axes with what the criterion declared that it needs, and nothing else."""
    request, chosen = job.request, job.request.chosen

    def found() -> list[Axis]:
        known = priced(axes, request.by, terms)
        if chosen.needs == "nothing":
            return known
        return gather(chosen.needs, job.subject.model, known, job.drawn(SCORING_BATCH), chosen.loss)

    return job.shared.once(STATISTICS, (_seen(job), chosen.needs, chosen.loss), found)


def _seen(job: Job) -> tuple[object, ...]:
    """Return what scores depend on, but for the criterion."""
    request = job.request
    return (
        job.subject.model,
        job.subject.part,
        job.chosen,
        request.by,
        job.data,
        request.calibration,
        request.seed,
    )
