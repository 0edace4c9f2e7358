"""sharing_by: how axes share the budget by what was measured of each of them alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..axis import Axis
from ..errors import BudgetError
from ..naming import some
from ..planning.budget import Term
from ..planning.prices import saved_by_one
from ..planning.sharing import Allocation, Losses
from .job import Job


def repaired_otherwise(job: Job) -> Iterator[str]:
    """Say if what the budget is shared by was measured with another repair."""
    file = job.request.measured
    recipe = file["recipe"] if file else None
    used = job.request.recipe()["repair"]
    if recipe and recipe.get("repair") != used:
        yield (
            f"Scope {job.request.scope!r} was measured with repair {recipe.get('repair')!r}, and "
            f"{used!r} is used here, so that axes may cost something else."
        )


def sharing_by_sensitivity(job: Job, axes: Sequence[Axis], terms: Sequence[Term]) -> Allocation:
    """Return the shares that lose least, by the sensitivity that was asked for.

    Raises:
        BudgetError: That is of another model or another criterion, or axes are missing in it.
    """
    file = job.request.measured
    assert file is not None, "only called where a sensitivity was asked for"
    place, asked = job.request.scope, file["asked"]
    of = str(asked.get("criterion"))
    if of.partition(":")[0] != job.request.chosen.name:
        raise BudgetError(
            f"Scope {place!r} was measured with criterion {of!r}, and slices are chosen by "
            f"{job.request.chosen.name!r} here; pass that criterion, or measure with this one."
        )
    origin, recipe = job.subject.origin(), file["recipe"] or {}
    for word in ("arch", "weights"):
        if recipe.get(word) != origin[word]:
            raise BudgetError(
                f"Scope {place!r} was measured with {word} {recipe.get(word)!r}, and here it is "
                f"{origin[word]!r}; measure this model."
            )
    measured: dict[str, list[tuple[float, float]]] = {}
    for effect in file["effects"]:
        gone = 1 - effect["kept"] / effect["size"]
        measured.setdefault(effect["axis"], []).append((gone, effect["divergence"]))
    names = {axis.spec.match or axis.name: axis for axis in axes}
    missing = [name for name in names if name not in {*measured, *file.get("uncut", ())}]
    if missing:
        raise BudgetError(
            f"Scope {place!r} says nothing of {some(missing)}; measure these too (prunekit "
            "sensitivity --axes), or leave them out with axes or exclude."
        )
    for effect in file["effects"]:
        axis = names.get(effect["axis"])
        if axis is not None and effect["size"] != axis.size:
            raise BudgetError(
                f"Scope {place!r} is of a model whose {axis.name} has {effect['size']} slices, and "
                f"here it has {axis.size}; measure this model."
            )
    return Allocation(
        {name: Losses.of(found) for name, found in measured.items() if name in names},
        {axis.name: saved_by_one(axis, terms) if terms else 1.0 for axis in axes},
    )
