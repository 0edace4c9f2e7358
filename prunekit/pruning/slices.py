"""take_step: one round of pruning, from a model to a smaller one that was put right again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..axis import Axis
from ..criteria.base import Criterion, Scope
from ..cutting.parity import silence, verify
from ..cutting.shrink import shrunk
from ..errors import BudgetError, DataError
from ..inputs.data import Batches, Data, batches
from ..inputs.subject import Subject, find_specs
from ..measuring.counting import mac_terms, param_terms
from ..planning.budget import Budget, By, Term
from ..planning.plan import Plan, make_plan
from ..planning.prices import priced
from ..planning.rounds import combine
from ..recovery.recipes import Recipe
from ..recovery.reconstruct import repair_
from ..recovery.training import Epoch, train_
from ..repairs.base import Repair
from ..result import Round
from ..shared import Shared
from ..statistics import gather
from ..tracing.graph import trace

SCORING_BATCH = 64  # images in a forward and backward pass
REPAIR_BATCH = 32  # images in a forward pass of two models


@dataclass(frozen=True)
class Choices:
    """What was chosen for all steps of a run; `prune` explains each.

    Attributes:
        recipe: How to train after each step; None for not at all.
        data: Where calibration and training images come from; None if there are none.
    """

    criterion: Criterion
    scope: Scope
    repair: Repair
    recipe: Recipe | None
    kinds: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    by: By
    floor: float
    multiple: int
    data: Data | None
    calibration: int
    seed: int

    def drawn(self, user: str, size: int) -> Batches:
        """Return the calibration images, in batches.

        Args:
            user: Who needs them, for the message.
            size: Images in a batch.

        Raises:
            DataError: There are none.
        """
        if self.data is None or self.data.calibration is None:
            raise DataError(
                f"{user} needs training images; pass data, such as fashion-mnist-mini or a folder "
                "with a train folder in it."
            )
        return batches(self.data.calibration, size, limit=self.calibration, seed=self.seed)


@dataclass(frozen=True)
class Cut:
    """What to cut out of which model.

    Attributes:
        subject: The model; not modified.
        axes: What may shrink, traced on it.
        plan: What does, in its coordinates.
    """

    subject: Subject
    axes: list[Axis]
    plan: Plan


@dataclass(frozen=True)
class Step:
    """What came of the steps so far.

    Attributes:
        model: The small model.
        cut: What all steps together cut out of the original model.
        cost: What there was, in the original model, of whatever the budget counts.
        round: What was found out in the last step.
        scores: What the criterion said of the original model's slices, axis by axis.
    """

    model: nn.Module
    cut: Cut
    cost: float
    round: Round
    scores: Mapping[str, Tensor]


class Watch:
    """Names each part of the work as it starts, and adds up how long it takes.

    What was at hand already counts as long as it took to find out, so that the times of runs can
    be compared, whichever came first.
    """

    def __init__(self, on_step: Callable[[str], None], shared: Shared):
        self._on_step = on_step
        self._shared = shared
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._on_step(name)
        start, saved = time.perf_counter(), self._shared.saved
        yield
        taken = time.perf_counter() - start + self._shared.saved - saved
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)


def take_step(
    subject: Subject,
    ratio: float,
    choices: Choices,
    watch: Watch,
    before: Step | None,
    shared: Shared,
    on_epoch: Callable[[Epoch], None],
) -> Step:
    """Trace, score, plan, cut, prove, repair and train.

    With training between them, every step cuts the model that the last one left. Without, all
    that a step learns is what to cut, and the original is cut anew, so that what one repair
    leaves undone does not pile up with the next.

    Args:
        subject: The original model; not modified.
        ratio: The fraction of it to be gone afterwards.
        choices: All that was chosen.
        watch: Is told what happens.
        before: The step before, if this is not the first.
        shared: What other runs found out about the original model.
        on_epoch: Called after every epoch of training.

    Raises:
        PruneError: One of its children.
    """
    now = replace(subject, model=before.model) if before else subject
    shared = Shared() if before else shared
    chosen = (choices.kinds, choices.include, choices.exclude)
    with watch("trace"):
        axes = traced(now, *chosen, shared)
        total, terms = _costs(axes, now, choices.by)
    with watch("score"):
        seen = (now.model, chosen, choices.by, choices.data, choices.calibration, choices.seed)
        scores = shared.once(
            "scores",
            (seen, choices.criterion),
            lambda: choices.criterion(
                _informed(priced(axes, choices.by, terms), now, choices, shared, seen)
            ),
        )
    with watch("plan"):
        cost = before.cost if before else total
        lengths = _lengths(before.cut.axes if before else axes)
        plan = _planned(axes, scores, ratio, choices, (total, terms), cost, lengths)
        last = Cut(now, axes, plan)
        whole = _together(before.cut, last) if before else last
    small, done = _carry_out(last if choices.recipe else whole, choices, watch)
    if choices.recipe is not None:
        with watch("train"):
            trained = train_(
                small,
                choices.data.calibration if choices.data else None,
                choices.recipe,
                teacher=subject.model,
                seed=choices.seed,
                device=next(small.parameters()).device.type,
                on_epoch=on_epoch,
            )
            done = replace(done, trained=trained)
    first = before.scores if before else _by_name(axes, scores)
    return Step(small, whole, cost, done, first)


def traced(
    subject: Subject,
    kinds: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    shared: Shared,
) -> list[Axis]:
    """Return the axes that may shrink, see `find_specs` and `trace`."""

    def found() -> list[Axis]:
        specs = find_specs(subject, kinds, include, exclude)
        return trace(subject.model, specs, subject.adapter, subject.example)

    return shared.once("trace", (subject.model, kinds, include, exclude), found)


def _by_name(axes: Sequence[Axis], scores: Sequence[Tensor]) -> dict[str, Tensor]:
    return {axis.name: score for axis, score in zip(axes, scores, strict=True)}


def _carry_out(cut: Cut, choices: Choices, watch: Watch) -> tuple[nn.Module, Round]:
    """Cut, prove that removing equals masking, and repair."""
    subject, axes, plan = cut.subject, cut.axes, cut.plan
    with watch("silence"):  # before there is a small model, to have one copy at a time
        reference = silence(subject, axes, plan)
    with watch("shrink"):
        small = shrunk(subject.model, axes, plan, subject.adapter).eval()
    with watch("verify"):
        done = Round(plan.asked, verify(reference, small))
    if choices.repair.needs == "nothing":
        return small, done
    with watch("repair"):
        images = choices.drawn(f"Repair {choices.repair.name!r}", REPAIR_BATCH)
        blocks = subject.adapter.blocks(subject.model)
        gains = repair_(small, subject.model, axes, plan, choices.repair, blocks, images)
    return small, replace(done, repaired=gains)


def _together(first: Cut, last: Cut) -> Cut:
    return replace(first, plan=combine(first.axes, first.plan, last.axes, last.plan))


def _lengths(axes: Sequence[Axis]) -> dict[str, int]:
    """Return every axis' slices per group."""
    return {axis.name: axis.size // axis.spec.groups for axis in axes}


def _informed(
    axes: list[Axis], subject: Subject, choices: Choices, shared: Shared, seen: object
) -> list[Axis]:
    """Give the criterion what it declared that it needs, and nothing else."""
    need = choices.criterion.needs
    if need == "nothing":
        return axes
    images = choices.drawn(f"Criterion {choices.criterion.name!r}", SCORING_BATCH)
    return shared.once(
        "statistics", (seen, need), lambda: gather(need, subject.model, axes, images)
    )


def _planned(
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    ratio: float,
    choices: Choices,
    now: tuple[float, tuple[Term, ...]],
    cost: float,
    lengths: Mapping[str, int],
) -> Plan:
    """Plan for what is still to be removed; the plan says how much of the original is gone."""
    total, terms = now
    left = (1 - ratio) * cost
    if left >= total:
        raise BudgetError(
            f"There is nothing left to do for the step to a ratio of {ratio:.3g}: the one before "
            f"went as far as {1 - total / cost:.3g}. Take fewer steps."
        )
    plan = make_plan(
        axes,
        scores,
        Budget(1 - left / total, choices.by, total, terms),
        scope=choices.scope,
        floor=choices.floor,
        multiple=choices.multiple,
        whole=lengths,
    )
    return replace(plan, asked=ratio, got=1 - (1 - plan.got) * total / cost)


def _costs(axes: Sequence[Axis], subject: Subject, by: By) -> tuple[float, tuple[Term, ...]]:
    """Return what the model costs, in all and term by term."""
    if by == "slices":
        return float(sum(axis.size for axis in axes)), ()
    if by == "macs":
        terms = mac_terms(subject.model, axes, subject.example)
    else:
        terms = param_terms(subject.model)
    return sum(term.cost for term in terms), terms
