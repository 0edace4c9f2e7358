"""aimed: a request that names milliseconds, in terms of the fraction to remove."""

from __future__ import annotations

from dataclasses import replace

from ..errors import BudgetError
from ..measuring.latency import fitting, summed_up, times
from .job import Job


def aimed(job: Job) -> Job:
    """Return a job that knows what to remove: the dense model is timed if only a latency was named.

    Raises:
        BudgetError: The dense model is as fast already.
    """
    request = job.request
    if request.target_ms is None:
        return job
    with job.watch("time"), fitting(request.latency_batch):
        model, example = request.conditions.ready(job.subject.dense, job.subject.example)
        taken = times([model], example, request.latency_batch)[0]
    dense = summed_up(taken).median
    if request.target_ms >= dense:
        raise BudgetError(
            f"Asked for {request.target_ms:g} ms, but the dense model takes {dense:.3g} ms; name "
            "fewer, or use it as it is."
        )
    ratio = 1 - request.target_ms / dense
    return replace(job, request=replace(request, ratio=ratio, target_ms=None))
