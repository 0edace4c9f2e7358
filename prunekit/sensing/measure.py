"""sensitivity: every axis cut alone, at several ratios, and what that does to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch import nn

from ..criteria.base import Criterion
from ..errors import BudgetError
from ..keywords import with_keywords
from ..planning.budget import Budget
from ..request import Options, Request
from .bench import Asked, Bench, Cell, Effect

RATIOS = (0.25, 0.5, 0.75)

Launcher = Callable[[Bench, Sequence[Cell], Callable[[str], None]], Iterator[Effect]]


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


def measured_here(
    bench: Bench, cells: Sequence[Cell], on_step: Callable[[str], None]
) -> Iterator[Effect]:
    """Yield what some cuts do, one after the other, in this process."""
    names = list(bench.units)
    for cell in cells:
        on_step(f"axis {names.index(cell[0]) + 1} of {len(names)}")
        yield bench.effect(cell)


@with_keywords(Options, Request)
def sensitivity(
    model: nn.Module | str,
    criterion: str | Criterion = "dimap",
    *,
    ratios: Sequence[float] = RATIOS,
    known: Sequence[Effect] = (),
    launcher: Launcher = measured_here,
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
        launcher: What measures the others, such as `Cluster().cuts` of docs/sensitivity.md.
        on_step: Called with the name of each step as it starts.
        on_effect: Called with each effect that is measured, as soon as it is known.
        options: As for `prune`; the budget is the axis' own, so that `scope` and the like have no
            say. If `by` is `latency`, what each cut saves of it is predicted, as docs/latency.md
            says.

    Raises:
        PruneError: One of its children, in a sentence that says what to do.
    """
    asked = Asked(model, criterion, options, tuple(ratios))
    _check(asked.request(), ratios)
    bench = Bench(asked, on_step)
    if not bench.cells:
        named = ", ".join(f"{ratio:g}" for ratio in ratios)
        raise BudgetError(
            f"None of the ratios ({named}) removes a slice of any axis, in multiples of "
            f"{bench.job.request.multiple}; name larger ones, or a smaller multiple."
        )
    there = {(one.axis, one.asked): one for one in known}
    missing = [cell for cell in bench.cells if cell not in there]
    for effect in launcher(bench, missing, on_step) if missing else ():
        there[effect.axis, effect.asked] = effect
        on_effect(effect)
    seen = {name for name, _ in bench.cells}
    return Sensitivity(
        tuple(there[cell] for cell in bench.cells),
        bench.recipe,
        bench.job.calibration,
        tuple(name for name in bench.units if name not in seen),
        bench.job.subject.warnings,
    )


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
