"""sensitivity: every axis cut alone, at several ratios, and what that does to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..axis import Axis
from ..criteria.base import Criterion
from ..errors import BudgetError
from ..inputs.data import check_labels
from ..inputs.finite import check_finite
from ..keywords import with_keywords
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

RATIOS = (0.25, 0.5, 0.75)


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
class Sensitivity:
    """Which axes are dear, and which are free.

    Attributes:
        effects: Of every axis at every ratio that sizes allow, in the order of the model.
        recipe: What determined it, and the versions it was made with.
        images: How many training images were looked at.
        uncut: Names of axes of which none of the ratios removes a slice.
        warnings: What is right but may surprise about the model.
    """

    effects: tuple[Effect, ...]
    recipe: Mapping[str, Any]
    images: int
    uncut: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@with_keywords(Options, Request)
def sensitivity(
    model: nn.Module | str,
    criterion: str | Criterion = "dimap",
    *,
    ratios: Sequence[float] = RATIOS,
    known: Sequence[Effect] = (),
    on_step: Callable[[str], None] = lambda step: None,
    on_effect: Callable[[Effect], None] = lambda effect: None,
    **options: Unpack[Options],
) -> Sensitivity:
    """Cut every axis alone, and see what happens on training images.

    Nothing is learnt from test images. Every cut is proven to be what masking does, and repaired if
    a repair is asked for.

    Args:
        model: As `prune` takes it.
        criterion: What chooses the slices that leave.
        ratios: Fractions of an axis' slices to remove, each in (0, 1).
        known: Effects that were measured before, and are not measured again.
        on_step: Called with the name of each step as it starts.
        on_effect: Called with each effect as soon as it is known.
        options: As for `prune`; the budget is the axis' own, so that `scope` and the like have no
            say. If `by` is `latency`, what each cut saves of it is predicted, as docs/latency.md
            says.

    Raises:
        PruneError: One of its children, in a sentence that says what to do.
    """
    request = Request(model=model, criterion=criterion, **options)
    _check(request, ratios)
    shared = Shared()
    watch = Watch(on_step, shared)
    with watch("build"):
        job = prepare(reopened(request), shared, watch, _quiet, looks=True)
        check_finite(job.subject.model, "The model")
    job = proved(job)
    with watch("trace"):
        axes = traced(job.subject, *job.chosen, shared)
    with watch("score"):
        scores = scored(job, axes, ())
    with watch("measure"):
        dense = _outputs(job, job.subject.model)
    there = {(one.axis, one.asked): one for one in known}
    effects = []
    units = _together(axes, scores)
    for number, (name, unit) in enumerate(units.items(), start=1):
        on_step(f"axis {number} of {len(units)}")
        for ratio, plan in _plans(axes, unit, ratios, request.multiple):
            effect = there.get((name, ratio)) or _effect(job, axes, name, ratio, plan, dense)
            effects.append(effect)
            on_effect(effect)
    seen = {effect.axis for effect in effects}
    uncut = tuple(name for name in units if name not in seen)
    if not effects:
        asked = ", ".join(f"{ratio:g}" for ratio in ratios)
        raise BudgetError(
            f"None of the ratios ({asked}) removes a slice of any axis, in multiples of "
            f"{request.multiple}; name larger ones, or a smaller multiple."
        )
    return Sensitivity(tuple(effects), _recipe(job), len(dense.logits), uncut, job.subject.warnings)


def _check(request: Request, ratios: Sequence[float]) -> None:
    """Refuse what cannot be measured.

    Raises:
        BudgetError: There are no ratios, or what was asked for is not of slices that leave at once.
    """
    for ratio in ratios:
        Budget(ratio, "slices", total=0)  # checks it
    if not ratios or len(set(ratios)) < len(ratios):
        raise BudgetError(f"The ratios are {list(ratios)}; name at least one, and none twice.")
    if request.by in ("slices", "memory"):
        raise BudgetError(
            f"What a cut saves is counted in params, macs or latency, and got by {request.by!r}; "
            "name one of these."
        )
    if request.level.masks or request.steps > 1 or request.finetune is not None:
        raise BudgetError(
            "Sensitivity is of slices that leave at once; leave out granularity, steps, finetune."
        )


def _quiet(_: object) -> None:
    """Say nothing of epochs: nothing is trained."""


def _together(
    axes: Sequence[Axis], scores: Sequence[Tensor]
) -> dict[str, list[tuple[Axis, Tensor]]]:
    """Put axes together that must keep equally many slices, by what they have in common."""
    found: dict[str, list[tuple[Axis, Tensor]]] = {}
    for axis, score in zip(axes, scores, strict=True):
        found.setdefault(axis.spec.match or axis.name, []).append((axis, score))
    return found


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


def _effect(
    job: Job, axes: Sequence[Axis], name: str, ratio: float, plan: Plan, dense: _Outputs
) -> Effect:
    """Cut, prove, repair and measure."""
    exchanged = refined(job, axes, plan, ())
    small, _ = carry_out(job, Cut(job.subject, list(axes), exchanged))
    after = _outputs(job, small)
    first = next(axis for axis in axes if name in (axis.spec.match, axis.name))
    return Effect(
        axis=name,
        kind=first.kind,
        size=first.size,
        kept=len(plan.kept[first.name]),
        asked=ratio,
        params=_gone(job, axes, plan, "params"),
        macs=_gone(job, axes, plan, "macs"),
        latency=_gone(job, axes, plan, "latency") if job.request.by == "latency" else None,
        divergence=divergence(dense.logits, after.logits),
        agreement=float((dense.logits.argmax(-1) == after.logits.argmax(-1)).double().mean()),
        loss=_difference(after.loss, dense.loss),
        top1=_difference(dense.top1, after.top1),
    )


def _gone(job: Job, axes: Sequence[Axis], plan: Plan, by: By) -> float:
    """Return the fraction of the model's parameters or MACs that a plan removes."""
    key = job.subject.model, by
    total, terms = job.shared.once(f"cost by {by}", key, lambda: cost_of(job, axes, by))
    return saved(axes, plan, terms) / total


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
