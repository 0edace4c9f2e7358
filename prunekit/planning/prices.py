"""priced: axes that know what one of their slices saves of the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..axis import Axis
from .budget import By, Term


def priced(axes: Sequence[Axis], by: By, terms: Sequence[Term]) -> list[Axis]:
    """Give each axis its price, so that a criterion can weigh what is lost against what is saved.

    Args:
        axes: What may shrink.
        by: What the budget counts. If parameters, nothing is given: a criterion can count the
            weights itself, and those that have no say, such as biases, hardly matter.
        terms: What the model costs, term by term; unused for slices.
    """
    if by == "params":
        return list(axes)
    return [
        replace(axis, price=1.0 if by == "slices" else saved_by_one(axis, terms)) for axis in axes
    ]


def saved_by_one(axis: Axis, terms: Sequence[Term]) -> float:
    """Return what one slice costs while all others are there, its own and theirs."""
    terms = [part for term in terms for part in term.parts]
    if axis.spec.branch is not None:
        gone = {(member.name, member.dim) for member in axis.members}
        return sum(term.saved(0.0 if d in gone else 1.0 for d in term.dims) for term in terms)
    shares = {(m.name, m.dim): m.index.shape[1] / m.weight.shape[m.dim] for m in axis.members}
    return sum(term.saved_by_a_little(1 - shares.get(d, 0.0) for d in term.dims) for term in terms)
