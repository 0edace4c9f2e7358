"""Bench: where axes are cut one at a time, and what a cut does is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axis import Axis
from ..inputs.data import check_labels
from ..inputs.finite import check_finite
from ..measuring.accuracy import EVAL_BATCH
from ..measuring.divergence import divergence
from ..planning.budget import Budget, By
from ..planning.left import saved
from ..planning.plan import NothingToRemove, OutOfReach, Plan, make_plan
from ..pruning.costs import cost_of
from ..pruning.job import Job, prepare, proved
from ..pruning.scoring import refined, scored
from ..pruning.sides import setting
from ..pruning.slices import Cut, carry_out, traced
from ..pruning.watch import Watch
from ..request import Options, Request
from ..reuse import reopened
from ..shared import Shared
from ..tracing.outputs import logits_of

Cell = tuple[str, float]  # an axis, and the fraction of it to remove


@dataclass(frozen=True)
class Effect:
    """What became of a model of which one axis was cut.

    Attributes:
        axis: Its name.
        kind: Its kind.
        size: How many slices it has.
        kept: How many of them stayed.
        asked: The fraction of them to remove that was asked for.
        params: Fraction of the whole model's parameters that are gone.
        macs: Fraction of its MACs.
        latency: Fraction of its latency, as predicted; None unless the budget counts latency.
        divergence: Kullback-Leibler divergence of its predictions from the dense model's, mean over
            the images, in nats.
        agreement: Fraction of the images on which both say the same.
        loss: Cross-entropy, more than the dense model's; None without labels.
        top1: Accuracy in points, less than the dense model's; None without labels.
    """

    axis: str
    kind: str
    size: int
    kept: int
    asked: float
    params: float
    macs: float
    divergence: float
    agreement: float
    loss: float | None
    top1: float | None
    latency: float | None = None


@dataclass(frozen=True)
class Asked:
    """What is to be measured, as plain values.

    Attributes:
        model, criterion, options: As `sensitivity` takes them.
        ratios: Fractions of an axis to remove.
    """

    model: Any
    criterion: Any
    options: Options
    ratios: tuple[float, ...]

    def request(self) -> Request:
        """Return the same, checked."""
        return Request(model=self.model, criterion=self.criterion, **self.options)


class Bench:
    """A model, its axes, and what is to be cut; what cuts have in common is done once.

    Attributes:
        asked: What was asked for.
        job: That, with the model and the images.
        axes: All of them.
        units: Axes that must keep equally many slices, by what they have in common.
    """

    def __init__(self, asked: Asked, on_step: Callable[[str], None] = lambda step: None):
        """Find model, images and axes.

        Raises:
            PruneError: One of its children, in a sentence that says what to do.
        """
        self.asked = asked
        shared = Shared()
        watch = Watch(on_step, shared)
        with watch("build"):
            job = prepare(reopened(asked.request()), shared, watch, _quiet, looks=True)
            check_finite(job.subject.model, "The model")
        self.job = proved(job)
        with watch("trace"):
            self.axes = traced(self.job.subject, *self.job.chosen, shared)
        self.units: dict[str, list[Axis]] = {}
        for axis in self.axes:
            self.units.setdefault(axis.spec.match or axis.name, []).append(axis)

    @cached_property
    def cells(self) -> list[Cell]:
        """The cuts that sizes allow, in the order of the model; no scores are needed for that."""
        none = {axis.name: torch.zeros(axis.size) for axis in self.axes}
        return [(name, asked) for name in self.units for asked, _ in self._plans(name, none)]

    @property
    def recipe(self) -> dict[str, Any]:
        """What determines the figures, and the versions they are made with."""
        return _recipe(self.job)

    def effect(self, cell: Cell) -> Effect:
        """Cut, prove, repair and measure."""
        name, asked = cell
        plan = dict(self._plans(name, self._scores))[asked]
        exchanged = refined(self.job, self.axes, plan, ())
        small, _ = carry_out(self.job, Cut(self.job.subject, self.axes, exchanged))
        dense, after = self._dense, _outputs(self.job, small)
        first = self.units[name][0]
        timed = self.job.request.by == "latency"
        return Effect(
            axis=name,
            kind=first.kind,
            size=first.size,
            kept=len(plan.kept[first.name]),
            asked=asked,
            params=self._gone(plan, "params"),
            macs=self._gone(plan, "macs"),
            latency=self._gone(plan, "latency") if timed else None,
            divergence=divergence(dense.logits, after.logits),
            agreement=float((dense.logits.argmax(-1) == after.logits.argmax(-1)).double().mean()),
            loss=_difference(after.loss, dense.loss),
            top1=_difference(dense.top1, after.top1),
        )

    @cached_property
    def _scores(self) -> dict[str, Tensor]:
        with self.job.watch("score"):
            scores = scored(self.job, self.axes, ())
        return {axis.name: score for axis, score in zip(self.axes, scores, strict=True)}

    @cached_property
    def _dense(self) -> _Outputs:
        with self.job.watch("measure"):
            return _outputs(self.job, self.job.subject.model)

    def _plans(self, name: str, scores: Mapping[str, Tensor]) -> Iterator[tuple[float, Plan]]:
        cut = [(axis, scores[axis.name]) for axis in self.units[name]]
        return _plans(self.axes, cut, self.asked.ratios, self.job.request.multiple)

    def _gone(self, plan: Plan, by: By) -> float:
        """Return the fraction of the model's parameters or MACs that a plan removes."""
        key = self.job.subject.model, by
        cost = self.job.shared.once(f"cost by {by}", key, lambda: cost_of(self.job, self.axes, by))
        return saved(self.axes, plan, cost.terms) / cost.total


def _quiet(_: object) -> None:
    """Say nothing of epochs: nothing is trained."""


def _plans(
    axes: Sequence[Axis],
    unit: Sequence[tuple[Axis, Tensor]],
    ratios: Sequence[float],
    multiple: int,
) -> Iterator[tuple[float, Plan]]:
    """Yield plans that leave all other axes whole; of ratios that come to the same, the nearest."""
    cut, scores = [axis for axis, _ in unit], [score for _, score in unit]
    whole = {axis.name: tuple(range(axis.size)) for axis in axes}
    sizes = {axis.name: axis.size for axis in axes}
    if cut[0].spec.branch is not None:  # it leaves whole, or stays
        yield 1.0, Plan({**whole, cut[0].name: ()}, sizes, "slices", 1.0, 1.0)
        return
    found: dict[float, Plan] = {}
    for ratio in ratios:
        budget = Budget(ratio, "slices", float(sum(axis.size for axis in cut)))
        with suppress(NothingToRemove, OutOfReach):
            plan = make_plan(cut, scores, budget, scope="axis", floor=0, multiple=multiple)
            nearest = found.get(plan.got)
            if nearest is None or abs(plan.got - ratio) < abs(plan.got - nearest.asked):
                found[plan.got] = plan
    for _, plan in sorted(found.items()):
        yield plan.asked, replace(plan, kept={**whole, **plan.kept}, sizes=sizes)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


@dataclass(frozen=True)
class _Outputs:
    """What a model says of the training images, and how right it is."""

    logits: Tensor
    loss: float | None
    top1: float | None


@torch.inference_mode()
def _outputs(job: Job, model: nn.Module) -> _Outputs:
    like = next(model.parameters())
    logits, labels = [], []
    for batch in job.drawn(EVAL_BATCH):
        x, *rest = (batch,) if isinstance(batch, Tensor) else batch
        logits.append(logits_of(model(x.to(like))).double().cpu())
        labels += [label for label in rest[:1] if label is not None]
    found = torch.cat(logits)
    if len(labels) < len(logits):
        return _Outputs(found, None, None)
    right = torch.cat([label.cpu() for label in labels])
    check_labels(right, found.shape[1], len(found))
    top1 = 100 * float((found.argmax(-1) == right).double().mean())
    return _Outputs(found, float(F.cross_entropy(found, right)), top1)


def _recipe(job: Job) -> dict[str, Any]:
    asked = job.request.recipe()
    words = ("criterion", "options", "repair", "repair_options", "multiple", "by", "seed")
    return {
        **job.subject.origin(),
        **{word: asked[word] for word in words},
        "axes": list(job.kinds),
        "data": job.data.name if job.data else None,
        "calibration": job.calibration,
        **setting(job.subject.model),
    }
