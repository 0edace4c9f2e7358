"""prune_slices: from a model to a smaller one, in one round or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..adapters.answers import axes_of
from ..axis import Axis
from ..criteria.base import Scope
from ..cutting.parity import silence, verify
from ..cutting.shrink import shrunk
from ..errors import PruneError
from ..inputs.subject import Subject, find_specs
from ..measuring.saving import saved_time
from ..naming import some
from ..planning.budget import Budget, Cost, Term
from ..planning.chain import Sharing
from ..planning.left import saved, still_there
from ..planning.plan import NothingToRemove, Plan, make_plan
from ..planning.rounds import combine
from ..request import SEARCH
from ..result import Round, Search, Timing
from ..shared import Shared
from ..tracing.graph import trace_inside
from .branches import check_compete, check_told_apart
from .closing import closed
from .costs import cost_of, further_budgets
from .footprints import footprint
from .job import Job, Outcome
from .mending import mended
from .scopes import repaired_otherwise, sharing_by_sensitivity
from .scoring import STATISTICS, refined, scored
from .search import searched
from .watch import Watch


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
    """What came of the rounds so far.

    Attributes:
        model: The small model.
        cut: What all rounds together cut out of the original model.
        cost: What there was, in the original model, of whatever the budget counts.
        terms: What that was made of.
        round: What was found out in the last round.
        scores: What the criterion said of the original model's slices, axis by axis.
    """

    model: nn.Module
    cut: Cut
    cost: float
    terms: tuple[Term, ...]
    round: Round
    scores: Mapping[str, Tensor]


def prune_slices(job: Job) -> Outcome:
    """Cut slices out, in as many rounds as there are targets.

    A round that has nothing to remove, since the sizes that axes may have are too coarse for it, is
    merged with its neighbours. Whether the last target is within reach is settled in the first
    round, before anything is trained.

    Raises:
        PruneError: One of its children. If a later round failed, its `finished` is the outcome of
            the rounds before.
    """
    step: Step | None = None
    rounds: list[Round] = []
    targets = job.request.targets
    for target in targets:
        try:
            step = take_step(job, target, step)
        except NothingToRemove:
            if step is None and target == targets[-1]:
                raise
        except PruneError as error:
            if step is not None:
                error.finished = _outcome(step, rounds, len(targets))
            raise
        else:
            rounds.append(step.round)
    assert step is not None, "the last target raises if no round could remove anything"
    if job.request.by == "latency" and rounds[-1].timing is None:  # the last had nothing to do
        rounds[-1] = replace(rounds[-1], timing=_timing(job, step))
    whole = replace(step.cut.plan, asked=targets[-1])
    outcome = _outcome(replace(step, cut=replace(step.cut, plan=whole)), rounds, len(targets))
    said = (*outcome.warnings, *_left_out(job, step.cut.axes), *repaired_otherwise(job))
    return replace(outcome, warnings=said)


def _timing(job: Job, step: Step) -> Timing:
    """Time what rounds made that went as far as all were to go."""
    conditions, dense = job.request.conditions, job.subject.model
    with job.watch("time"):
        saving = saved_time(dense, step.model, job.subject.example, conditions)
    predicted = saved(step.cut.axes, step.cut.plan, step.terms) / step.cost
    return Timing(conditions, job.request.fraction, predicted, saving, tries=1)


def _left_out(job: Job, axes: Sequence[Axis]) -> Iterator[str]:
    """Say which of the axes that were asked for reach the output."""
    there = {axis.name for axis in axes}
    gone = [s.name for s in find_specs(job.subject, *job.chosen) if s.name not in there]
    if gone:
        yield f"Left out: {some(gone)}, since the output of the model would shrink with it."


def _outcome(step: Step, rounds: Sequence[Round], asked: int) -> Outcome:
    kinds = {axis.name: axis.kind for axis in step.cut.axes}
    merged = asked - len(rounds)
    warnings = (
        f"{merged} of {asked} rounds had nothing to remove, in steps of whole slices and "
        "multiples, and were merged with those beside them.",
    )
    return Outcome(
        step.model,
        step.cut.plan,
        tuple(rounds),
        kinds,
        step.scores,
        warnings=warnings if merged else (),
    )


def take_step(job: Job, ratio: float, before: Step | None) -> Step:
    """Trace, score, plan, cut, prove, repair and train.

    With training between them, every step cuts the model that the last one left. Without, all
    that a step learns is what to cut, and the original is cut anew, so that what one repair
    leaves undone does not pile up with the next.

    Args:
        job: What to do; its original model is not modified.
        ratio: The fraction of it to be gone afterwards.
        before: The step before, if this is not the first.

    Raises:
        NothingToRemove: There is no slice that can leave for so small a step.
        PruneError: One of its children.
    """
    now = job.subject.onward(before.model) if before else job.subject
    here = replace(job, subject=now, shared=Shared(alone=True)) if before else job
    watch = job.watch
    with watch("trace"):
        if before:
            axes = _traced_again(now, before.cut.axes)
        else:
            axes = traced(now, *job.chosen, job.shared)
    check_compete(axes, job.request.competes_in)
    costs = _costs(here, axes, before)
    with watch("score"):
        scores = scored(here, axes, costs.terms)
        check_told_apart(axes, scores, job.request.chosen.name)
    scope, search = _scope(here, axes, scores, costs)
    timing = None
    with watch("plan"):
        if job.request.by == "latency" and ratio == job.request.targets[-1]:
            plan, timing = _timed(here, job.subject.dense, axes, scores, costs, before, scope)
        else:
            plan = _planned(job, axes, scores, ratio, costs, before, scope)
        plan = refined(here, axes, plan, costs.terms)
        here.shared.release(STATISTICS)  # covariances of a large model are hundreds of megabytes
        last = Cut(now, axes, plan)
        whole = _together(before.cut, last) if before else last
    small, done = carry_out(here, last if job.request.finetune else whole)
    if job.request.finetune is not None:
        with watch("train"):
            done = replace(done, trained=job.train_(small))  # the teacher is the original
    held = footprint(job, whole.axes, whole.plan, small)
    # A corrected plan asks for something else than was asked for.
    done = replace(done, asked=ratio, timing=timing, search=search, footprint=held)
    first = before.scores if before else _by_name(axes, scores)
    cost, terms = (before.cost, before.terms) if before else (costs.total, costs.terms)
    return Step(small, whole, cost, terms, done, first)


def _costs(job: Job, axes: Sequence[Axis], before: Step | None) -> Cost:
    """Return what there still is of what the budget counts; times are those of the first round."""
    if before is None or job.request.by != "latency":
        return cost_of(job, axes, job.request.by)
    terms = still_there(before.cut.axes, before.cut.plan, before.terms)
    return Cost(sum(term.cost for term in terms), terms)


def traced(
    subject: Subject,
    kinds: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    shared: Shared,
) -> list[Axis]:
    """Return the axes that may shrink, see `find_specs` and `trace`.

    Those that reach the model's output are left out, unless there are no others.
    """

    def found() -> list[Axis]:
        specs = find_specs(subject, kinds, include, exclude)
        return trace_inside(subject.model, specs, subject.adapter, subject.example)

    key = subject.model, subject.part, kinds, include, exclude
    return shared.once("trace", key, found)


def _traced_again(subject: Subject, before: Sequence[Axis]) -> list[Axis]:
    """Return the axes of the round before that can shrink further.

    An axis of `auto` ends where one slice is left, and with the last of a kind the kind.

    Raises:
        NothingToRemove: None can.
    """
    names = {axis.name for axis in before}
    specs = [s for s in axes_of(subject.adapter, subject.model) if s.name in names]
    if not specs:
        raise NothingToRemove("No axis of the round before can shrink further. Take fewer steps.")
    return trace_inside(subject.model, specs, subject.adapter, subject.example)


def _by_name(axes: Sequence[Axis], scores: Sequence[Tensor]) -> dict[str, Tensor]:
    return {axis.name: score for axis, score in zip(axes, scores, strict=True)}


def carry_out(job: Job, cut: Cut) -> tuple[nn.Module, Round]:
    """Cut, prove that removing equals masking, and repair."""
    subject, axes, plan = cut.subject, cut.axes, cut.plan
    with job.watch("silence"):  # before there is a small model, to have one copy at a time
        reference = silence(subject, axes, plan)
    with job.watch("shrink"):
        small = shrunk(subject.model, axes, plan, subject.adapter).eval()
    with job.watch("verify"):
        done = Round(plan.asked, verify(reference, small))
    return small, mended(job, subject, small, done, axes, plan)


def _scope(
    job: Job,
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    costs: Cost,
) -> tuple[Scope | Sharing, Search | None]:
    """Return where slices compete, and how that was found if it was searched for."""
    request = job.request
    if request.measured is not None:
        return sharing_by_sensitivity(job, axes, costs.terms), None
    if request.scope != SEARCH:
        return request.competes_in, None
    quiet = replace(job, watch=Watch(lambda step: None, job.shared))
    with job.watch("search"):
        return searched(
            job,
            axes,
            scores,
            lambda shares: _planned(job, axes, scores, request.fraction, costs, None, shares),
            lambda plan: carry_out(
                quiet, Cut(job.subject, list(axes), refined(job, axes, plan, costs.terms))
            )[0],
        )


def _together(first: Cut, last: Cut) -> Cut:
    return replace(first, plan=combine(first.axes, first.plan, last.axes, last.plan))


def _lengths(axes: Sequence[Axis]) -> dict[str, int]:
    """Return every axis' slices per group."""
    return {axis.name: axis.size // axis.spec.groups for axis in axes}


def _planned(
    job: Job,
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    ratio: float,
    costs: Cost,
    before: Step | None,
    scope: Scope | Sharing,
) -> Plan:
    """Plan for what is still to be removed; the plan says how much of the original is gone."""
    request, total = job.request, costs.total
    whole = _lengths(before.cut.axes if before else axes)
    cost = before.cost if before else total

    def planned(target: float) -> Plan:
        left = (1 - target) * cost
        if left >= total:
            raise NothingToRemove(
                f"There is nothing left to do for the step to a ratio of {target:.3g}: the one "
                f"before went as far as {1 - total / cost:.3g}. Take fewer steps."
            )
        plan = make_plan(
            axes,
            scores,
            Budget.of(costs, 1 - left / total, request.by),
            scope=scope,
            floor=request.floor,
            multiple=request.multiple,
            whole=whole,
            uniform=request.uniform,
            also=further_budgets(job, axes),
        )
        return replace(plan, asked=target, got=1 - (1 - plan.got) * total / cost)

    if before is None and ratio < request.fraction:
        planned(request.fraction)  # refuses what no round will reach, whatever the scores
    return planned(ratio)


def _timed(
    job: Job,
    dense: nn.Module,
    axes: Sequence[Axis],
    scores: Sequence[Tensor],
    costs: Cost,
    before: Step | None,
    scope: Scope | Sharing,
) -> tuple[Plan, Timing]:
    """Plan for a latency, which is measured on what the plan makes, beside the dense model."""
    subject = job.subject
    return closed(
        lambda target: _planned(job, axes, scores, target, costs, before, scope),
        lambda plan: shrunk(subject.model, axes, plan, subject.adapter).eval(),
        dense,
        subject.example,
        job.request.fraction,
        job.request.conditions,
    )
