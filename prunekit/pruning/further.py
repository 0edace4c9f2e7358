"""since_the_start: one plan for all that was ever cut out of a model."""

from __future__ import annotations

from dataclasses import replace

from ..adapters.answers import axes_of
from ..inputs.lineage import Lineage
from ..inputs.subject import Subject
from ..planning.plan import Plan
from ..planning.rounds import combine
from ..tracing.graph import trace
from .job import Outcome


def since_the_start(subject: Subject, outcome: Outcome) -> Outcome:
    """Return an outcome whose plan is for the model that was there before anything was pruned.

    Args:
        subject: The model that was pruned now; if it was pruned before, its lineage says how.
        outcome: What came of it now.
    """
    lineage = subject.lineage
    if lineage is None:
        return outcome
    if outcome.masks is not None:
        plan = replace(
            lineage.plan, by=outcome.plan.by, asked=outcome.plan.asked, got=outcome.plan.got
        )
        return replace(outcome, plan=plan)
    kinds = {spec.name: spec.kind for spec in axes_of(subject.adapter, subject.model)}
    plan = _composed(subject, lineage, outcome.plan)
    return replace(outcome, plan=plan, kinds={name: kinds[name] for name in plan.kept})


def _composed(subject: Subject, lineage: Lineage, later: Plan) -> Plan:
    """Return the plan that does what both do, in the coordinates of the model at the start."""
    large = lineage.rebuilt()
    names = {*lineage.plan.kept, *later.kept}
    first_axes, later_axes = (
        trace(
            model,
            [spec for spec in axes_of(subject.adapter, model) if spec.name in names],
            subject.adapter,
            subject.example.cpu() if model is large else subject.example,
        )
        for model in (large, subject.model)
    )
    first = _completed(lineage.plan, {axis.name: axis.size for axis in first_axes})
    then = _completed(later, {axis.name: axis.size for axis in later_axes})
    return combine(first_axes, first, later_axes, then)


def _completed(plan: Plan, sizes: dict[str, int]) -> Plan:
    """Return a plan that says of all these axes what stays: all of those it did not name."""
    kept = {name: plan.kept.get(name, tuple(range(size))) for name, size in sizes.items()}
    return replace(plan, kept=kept, sizes=sizes)
