"""searched: shares of the budget that are tried out, one plan after the other.

The search starts from the scope that does best. Then every part of the model in turn gives up its
slices twice as fast, or half as fast, and what is nearer to the dense model is kept; where nothing
is, the steps become smaller. Plans are judged as they would be used, after the repair, on training
images that the repair has not seen, if there are such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from ..axis import Axis
from ..criteria.base import SCOPES
from ..files.reading import read_json
from ..inputs.data import batches, fingerprint
from ..measuring.divergence import divergence, logits_on
from ..measuring.provenance import versions
from ..planning.chain import make_units
from ..planning.plan import Plan
from ..planning.sharing import Weighted, parts_of
from ..result import Search
from .cache import folder_for, write
from .job import SCORING_BATCH, Job

BYTES = torch.uint8
STEP, SMALLEST = 2.0, 1.2  # factors on the speed at which a part gives up its slices


class Trials(TypedDict):
    """What is known of plans: what is kept of each axis, as a digest, to the divergence."""

    known: dict[str, float]


def searched(
    job: Job,
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    planned: Callable[[Weighted], Plan],
    build: Callable[[Plan], nn.Module],
) -> tuple[Weighted, Search]:
    """Return the shares of the best plan that was tried, and how it was found.

    Every trial is kept in a folder (see `cache.folder_for`), so that a search that was cut off goes
    on where it was.

    Args:
        job: What was asked for.
        axes: What may shrink.
        scores: What the criterion says of its slices.
        planned: From shares to a plan that meets the budget.
        build: From a plan to the small model, repaired.

    Raises:
        BudgetError: The budget is out of reach.
    """
    judged = _Judged(job, axes, planned, build)
    scopes = [scope for scope in SCOPES if scope != "axis" or not any(a.spec.branch for a in axes)]
    first: dict[str, float] = {scope: judged(Weighted(scope)) for scope in scopes}
    base = min(first, key=lambda scope: first[scope])
    best, lost = Weighted(base), first[base]
    parts = list(dict.fromkeys(parts_of(make_units(axes, scores, uniform=job.request.uniform))))
    factor = STEP
    while factor > SMALLEST and len(parts) > 1:
        better = False
        for tried in _neighbours(best, parts, factor):
            if judged.count >= job.request.most_trials:
                break
            found = judged(tried)
            if found < lost:
                best, lost, better = tried, found, True
        if judged.count >= job.request.most_trials:
            break
        factor = factor if better else factor**0.5
    return best, Search(
        trials=judged.count,
        scopes=first,
        divergence=lost,
        base=base,
        weights=dict(best.weights),
        images=judged.images,
        unseen=judged.unseen,
    )


def _neighbours(best: Weighted, parts: Sequence[str], factor: float) -> Iterator[Weighted]:
    """Yield shares in which one part gives up its slices faster, or slower."""
    for part in parts:
        for change in (factor, 1 / factor):
            weight = best.weights.get(part, 1.0) * change
            yield replace(best, weights={**best.weights, part: weight})


class _Judged:
    """Says how far the model that some shares make is from the dense one.

    Attributes:
        count: How many plans were judged.
        images: How many images they were judged on.
        unseen: Whether the criterion and the repair have not seen these.
    """

    def __init__(
        self,
        job: Job,
        axes: Sequence[Axis],
        planned: Callable[[Weighted], Plan],
        build: Callable[[Plan], nn.Module],
    ):
        self._job, self._planned, self._build = job, planned, build
        self._others = _Others(job)
        self.unseen = self._others.unseen
        self._dense = logits_on(job.subject.model, self._others)
        self.images = len(self._dense)
        self._place = folder_for("search") / f"{_digest(job, axes)}.json"
        self._known: dict[str, float] = {}
        if self._place.exists():
            advice = "remove it, and the search starts anew"
            self._known = read_json(self._place, Trials, advice=advice)["known"]
        self._seen: set[str] = set()

    @property
    def count(self) -> int:
        return len(self._seen)

    def __call__(self, shares: Weighted) -> float:
        plan = self._planned(shares)
        said = json.dumps(sorted((name, list(kept)) for name, kept in plan.kept.items()))
        key = hashlib.sha256(said.encode()).hexdigest()[:16]
        self._seen.add(key)
        if key not in self._known:
            small = logits_on(self._build(plan), self._others)
            self._known[key] = divergence(self._dense, small)
            write(self._place, {"known": self._known})
        return self._known[key]


class _Others:
    """Training images that come after those that criterion and repair see; else the same.

    Attributes:
        unseen: Whether there are others.
    """

    def __init__(self, job: Job):
        self._job = job
        images: Any = job.data.calibration if job.data else None
        self._skip = job.calibration if len(images) > job.calibration else 0
        self.unseen = self._skip > 0

    def __iter__(self) -> Iterator[Tensor]:
        job, skip = self._job, self._skip
        assert job.data is not None, "prepare() refuses requests that lack images"
        assert job.data.calibration is not None, "prepare() refuses requests that lack images"
        most = 2 * skip or job.request.calibration
        for batch in batches(
            job.data.calibration, SCORING_BATCH, limit=most, seed=job.request.seed
        ):
            x: Any = batch if isinstance(batch, Tensor) else batch[0]
            if skip < len(x):
                yield x[skip:]
            skip = max(0, skip - len(x))


def _digest(job: Job, axes: Sequence[Axis]) -> str:
    """Say in one word what a trial depends on beside its plan."""
    recipe = {**job.subject.origin(), **job.request.recipe(), "trials": None}
    said: list[Any] = [
        recipe,
        [[axis.name, axis.size] for axis in axes],
        [fingerprint(job.data) if job.data else None, job.calibration],
        versions(),
    ]
    found = hashlib.sha256(json.dumps(said, default=str).encode())
    for tensor in job.subject.model.state_dict().values():
        found.update(tensor.detach().cpu().contiguous().view(-1).view(dtype=BYTES).numpy())
    return found.hexdigest()[:32]
