"""aimed: a request that names milliseconds, in terms of the fraction to remove."""

from __future__ import annotations

from dataclasses import replace

from ..errors import BudgetError
from ..measuring.compiling import check_compiles
from ..measuring.latency import summed_up, times
from ..measuring.saving import runnable
from .job import Job


def aimed(job: Job) -> Job:
    """Return a job that knows what to remove: the dense model is timed if only a latency was named.

    Raises:
        BudgetError: The dense model is as fast already, or cannot be compiled though it should be.
    """
    request, subject = job.request, job.subject
    if request.compile:
        check_compiles(next(subject.model.parameters()).device)
    if request.target_ms is None:
        return job
    conditions = request.conditions
    with (
        job.watch("time"),
        runnable([subject.dense], subject.example, conditions) as (models, inputs),
    ):
        taken = times(models, inputs, conditions.batch)[0]
    dense = summed_up(taken).median
    if request.target_ms >= dense:
        raise BudgetError(
            f"Asked for {request.target_ms:g} ms, but the dense model takes {dense:.3g} ms; name "
            "fewer, or use it as it is."
        )
    ratio = 1 - request.target_ms / dense
    return replace(job, request=replace(request, ratio=ratio, target_ms=None))
