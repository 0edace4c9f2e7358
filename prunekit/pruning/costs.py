"""cost_of: what a model costs in whatever a budget counts, term by term."""

from __future__ import annotations

from collections.abc import Sequence

from ..axis import Axis
from ..measuring.alive import live_peak
from ..measuring.counting import mac_terms, param_terms, stats
from ..planning.budget import Budget, By, Cost, Term
from .job import Job
from .latency_table import latency_terms
from .memory_terms import memory_peak


def cost_of(job: Job, axes: Sequence[Axis], by: By) -> Cost:
    """Return what the model, or its part, costs in all, and what that is made of."""
    subject = job.subject
    terms: tuple[Term, ...]
    if by == "slices":
        return Cost(float(sum(axis.size for axis in axes)))
    if by == "latency":
        with job.watch("time modules"):
            terms = latency_terms(subject, axes, job.request.multiple, job.request.conditions)
        return Cost(sum(term.cost for term in terms), terms)
    if by == "memory":
        key = subject.model, tuple(axis.name for axis in axes)
        terms = (job.shared.once("memory peak", key, lambda: memory_peak(subject, axes)),)
    elif by == "macs":
        terms = mac_terms(subject.model, axes, subject.example, subject.part)
    else:
        terms = param_terms(subject.model, subject.part)
    total = now = sum(term.cost for term in terms)
    if subject.given is not None:
        if by == "memory":
            total = live_peak(subject.given, subject.example)
        else:
            total = getattr(stats(subject.given, subject.example, subject.part), by)
    return Cost(total, terms, total - now)


def further_budgets(job: Job, axes: Sequence[Axis]) -> list[Budget]:
    """Return the budgets that are to be met beside the first."""
    return [Budget.of(cost_of(job, axes, by), ratio, by) for by, ratio in job.request.also.items()]
