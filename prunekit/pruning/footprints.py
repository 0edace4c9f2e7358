"""footprint: what became of the peak memory, counted on the model that was built."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..axis import Axis
from ..measuring.alive import live_peak
from ..planning.left import saved
from ..planning.plan import Plan
from ..result import Footprint
from .costs import cost_of
from .job import Job


def footprint(job: Job, axes: Sequence[Axis], plan: Plan, small: nn.Module) -> Footprint | None:
    """Count the peak of a small model as that of the dense one was; None if nobody asked for it.

    Args:
        job: What was asked for, of which model.
        axes: Traced on it.
        plan: What was cut out of it.
        small: What is left.
    """
    request = job.request
    asked = plan.asked if request.by == "memory" else request.also.get("memory")
    if asked is None:
        return None
    cost = cost_of(job, axes, "memory")
    predicted = (saved(axes, plan, cost.terms) + cost.gone) / cost.total
    return Footprint(asked, predicted, round(cost.total), live_peak(small, job.subject.example))
