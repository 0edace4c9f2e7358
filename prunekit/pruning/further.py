"""since_the_start: one plan for all that was ever cut out of a model."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..adapters.answers import axes_of
from ..arguments import mapped
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
    plan, kinds = _composed(subject, lineage, outcome.plan)
    return replace(outcome, plan=plan, kinds=kinds)


def _composed(subject: Subject, lineage: Lineage, later: Plan) -> tuple[Plan, dict[str, str]]:
    """Return the plan that does what both do, for the model at the start, and its axes' kinds."""
    large = lineage.rebuilt()
    names = {*lineage.plan.kept, *later.kept}
    first_axes, later_axes = (
        trace(
            model,
            [spec for spec in axes_of(subject.adapter, model) if spec.name in names],
            subject.adapter,
            mapped(Tensor.cpu, subject.example) if model is large else subject.example,
        )
        for model in (large, subject.model)
    )
    first = _completed(lineage.plan, {axis.name: axis.size for axis in first_axes})
    then = _completed(later, {axis.name: axis.size for axis in later_axes})
    plan = combine(first_axes, first, later_axes, then)
    return plan, {axis.name: axis.kind for axis in first_axes}


def _completed(plan: Plan, sizes: dict[str, int]) -> Plan:
    """Return a plan that says of all these axes what stays: all of those it did not name."""
    kept = {name: plan.kept.get(name, tuple(range(size))) for name, size in sizes.items()}
    return replace(plan, kept=kept, sizes=sizes)
