"""examine: what the large and the small model cost and are worth, side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import are_batch
from ..inputs.data import Images, batches
from ..measuring.accuracy import EVAL_BATCH, hits, percentages
from ..measuring.counting import Stats, stats
from ..measuring.latency import latencies
from ..measuring.memory import peak_memory
from ..measuring.provenance import device_name, versions
from .job import Job

UNTIMED = (
    "Latency and memory were not measured: the tensors of example_input do not all begin with the "
    "number of images, so that nobody knows how to make a batch of another size."
)


@dataclass(frozen=True)
class Sides:
    """Both models, measured.

    Attributes:
        before, after: What the large and the small model cost.
        part: The same of the part that was pruned, if it is not the whole model.
        correct: Whether either was right on each test image, (images,) bool; None if they were not
            evaluated.
        warnings: What was not measured, and why.
    """

    before: Stats
    after: Stats
    correct: tuple[Tensor, Tensor] | None = None
    warnings: tuple[str, ...] = ()
    part: tuple[Stats, Stats] | None = None


def examine(job: Job, small: nn.Module) -> Sides:
    """Count, and as far as was asked for time and evaluate, both models.

    Raises:
        DataError: A test image is not readable, or has a label outside the model's classes.
    """
    with job.watch("measure"):
        sides = replace(_measured(job, small), part=_of_part(job, small))
    if not job.request.evaluate or job.data is None:
        return sides
    problem = job.data.problem
    if problem is None and job.data.test is None:
        problem = f"{job.data.name} has no images to evaluate on."
    if problem is not None or job.data.test is None:
        return replace(sides, warnings=(f"Accuracy was not measured: {problem}",))
    with job.watch("evaluate"):
        dense, after = _tested(job, small, job.data.test)
    return replace(
        sides,
        before=_with_accuracy(sides.before, dense),
        after=_with_accuracy(sides.after, after),
        correct=(dense[:, 0], after[:, 0]),
    )


def setting(model: nn.Module) -> dict[str, Any]:
    """Return what figures must travel with: device, threads and versions."""
    return {
        "device": device_name(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _measured(job: Job, small: nn.Module) -> Sides:
    dense, example, shared = job.subject.dense, job.subject.example, job.shared
    before = shared.once("dense size", dense, lambda: stats(dense, example))
    after = stats(small, example)
    evaluates, timed = job.request.evaluate, job.request.timed
    if not (evaluates if timed is None else timed):
        return Sides(before, after)
    if not are_batch(example):
        return Sides(before, after, warnings=(UNTIMED,))
    times = latencies((dense, small), example)
    peak = shared.once("dense memory", dense, lambda: peak_memory(dense, example))
    return Sides(
        replace(before, latency_ms=times[0], memory_bytes=peak),
        replace(after, latency_ms=times[1], memory_bytes=peak_memory(small, example)),
    )


def _of_part(job: Job, small: nn.Module) -> tuple[Stats, Stats] | None:
    """Count the part that was pruned, before and after."""
    subject = job.subject
    if not subject.part:
        return None
    before, after = (
        stats(model, subject.example, subject.part) for model in (subject.dense, small)
    )
    return before, after


def _tested(job: Job, small: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
    """Return what the large and the small model make of all test images, see `hits`."""
    dense = job.subject.dense

    def found(model: nn.Module) -> Tensor:
        return hits(model, batches(images, EVAL_BATCH))

    return job.shared.once("dense hits", (dense, job.data), lambda: found(dense)), found(small)


def _with_accuracy(side: Stats, found: Tensor) -> Stats:
    top1, top5 = percentages(found)
    return replace(side, top1=top1, top5=top5, images=len(found))
