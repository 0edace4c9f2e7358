"""check_budgets: which budgets may be asked for, and together with what."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from .errors import BudgetError
from .measuring.saving import DTYPES
from .planning.budget import By
from .registry import unknown

ALSO: tuple[By, ...] = ("params", "macs", "memory")  # what further budgets may count


def check_budgets(request: Any) -> None:
    """Refuse budgets that cannot be met, or not together.

    Args:
        request: The `Request`.

    Raises:
        BudgetError: There are some.
    """
    _check_latency(request)
    _check_also(request)
    _check_memory(request)


def _check_latency(request: Any) -> None:
    """Refuse what cannot go with a latency, and words about latency where it does not count."""
    if request.latency_dtype not in DTYPES:
        raise BudgetError(unknown("precision", request.latency_dtype, list(DTYPES)))
    if request.latency_batch < 1:
        raise BudgetError(f"latency_batch is {request.latency_batch}; expected 1 or more.")
    if request.by != "latency":
        for name in ("target_ms", "latency_batch", "latency_dtype", "compile"):
            if getattr(request, name) != type(request).__dataclass_fields__[name].default:
                raise BudgetError(
                    f"{name} is about latency, but the budget counts {request.by}; pass "
                    "by='latency' (--by latency), or leave it out."
                )
    elif request.target_ms is not None and not 0 < request.target_ms < math.inf:
        raise BudgetError(f"target_ms is {request.target_ms}; expected more than 0 milliseconds.")
    elif request.target_ms is not None and request.ratio is not None:
        raise BudgetError(
            f"Both a ratio ({request.ratio:g}) and a target of {request.target_ms:g} ms were "
            "given; leave one of them out."
        )
    elif request.level.masks:
        raise BudgetError(
            f"Single weights (granularity {request.level.text!r}) save no time by themselves; "
            "leave granularity out to prune slices by latency."
        )
    elif request.at:
        raise BudgetError(
            f"at is {request.at!r}, but latency is that of the whole model; leave at out, and "
            f"pass include=['{request.at}.*']."
        )


def _check_also(request: Any) -> None:
    """Refuse further budgets that cannot be met beside the first."""
    also: Mapping[str, float] = request.also
    for word, ratio in also.items():
        if word not in ALSO:
            raise BudgetError(unknown("further budget", word, ALSO))
        if word == request.by:
            raise BudgetError(f"{word} is the budget already; name another one in also.")
        if not isinstance(ratio, numbers.Real) or not 0 < ratio < 1:
            raise BudgetError(
                f"also asks for {ratio} of {word}; expected the fraction to remove, between 0 "
                "and 1 (both excluded)."
            )
    if request.also and (request.steps > 1 or request.level.masks):
        raise BudgetError(
            "Several budgets are met in one round of slices; leave also out, or steps and "
            "granularity."
        )


def _check_memory(request: Any) -> None:
    """Refuse what cannot go with a peak of memory."""
    if "memory" not in (request.by, *request.also):
        return
    if request.level.masks:
        raise BudgetError(
            f"Single weights (granularity {request.level.text!r}) save no memory by themselves; "
            "leave granularity out to prune slices by memory."
        )
    if request.at:
        raise BudgetError(
            f"at is {request.at!r}, but memory is that of the whole model; leave at out, and "
            f"pass include=['{request.at}.*']."
        )
