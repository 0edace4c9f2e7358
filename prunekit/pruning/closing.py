"""closed: a plan whose latency was measured on the model that it makes.

A prediction is only as good as the sum of its parts. So the model is built and timed beside the
dense one, what was predicted is set against what was measured, and the plan is made again for the
prediction that should come out right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from ..arguments import Inputs
from ..measuring.saving import Conditions, saved_time
from ..planning.plan import NothingToRemove, OutOfReach, Plan
from ..result import Timing

CORRECTIONS = 3
CLOSE = 0.03  # of the time that was asked for


def closed(
    planned: Callable[[float], Plan],
    build: Callable[[Plan], nn.Module],
    dense: nn.Module,
    example: Inputs,
    asked: float,
    conditions: Conditions,
) -> tuple[Plan, Timing]:
    """Return the plan whose model comes nearest to the time that was asked for, and its times.

    Args:
        planned: From the fraction to remove, as predicted, to a plan.
        build: From a plan to the small model.
        dense: The large one.
        example: One batch of inputs.
        asked: The fraction of the time to remove.
        conditions: How to time.

    Raises:
        BudgetError: What was asked for is out of reach, as far as can be predicted.
    """
    tries: list[tuple[Plan, Timing]] = []
    target = asked
    for attempt in range(1 + CORRECTIONS):
        try:
            plan = _within_reach(planned, target) if tries else _first(planned, target, conditions)
        except NothingToRemove:
            if not tries:
                raise
            break  # rounds before this one, or the smallest step, went further already
        if any(plan.kept == before.kept for before, _ in tries):
            break  # there is no plan between those that were tried
        saving = saved_time(dense, build(plan), example, conditions)
        timing = Timing(
            conditions=conditions, asked=asked, predicted=plan.got, saving=saving, tries=attempt + 1
        )
        tries.append((plan, timing))
        if timing.miss <= CLOSE:
            break
        target = _corrected([(one.predicted, one.saving.removed) for _, one in tries], asked)
    plan, timing = min(tries, key=lambda one: one[1].miss)
    return plan, timing.after(len(tries))


def _first(planned: Callable[[float], Plan], asked: float, conditions: Conditions) -> Plan:
    try:
        return planned(asked)
    except OutOfReach as error:
        if error.by != "latency":
            raise
        raise OutOfReach(
            f"To remove {asked:.1%} of the latency is out of reach: by the times of the modules, "
            f"at most {math.floor(1000 * error.reachable) / 10:.1f}% can be removed at batch "
            f"{conditions.batch}. Ask for less (a smaller ratio, or more milliseconds), time more "
            "images at once (latency_batch), or let more kinds of axes shrink.",
            error.reachable,
            error.by,
        ) from error


def _within_reach(planned: Callable[[float], Plan], target: float) -> Plan:
    try:
        return planned(target)
    except OutOfReach as error:
        return planned(error.reachable)


def _corrected(found: Sequence[tuple[float, float]], asked: float) -> float:
    """Return the prediction that should come out as asked for, by what others came out as.

    Args:
        found: What was predicted and what was measured.
        asked: What should be measured.
    """
    predicted, measured = np.array(sorted([(0.0, 0.0), *found])).T
    measured = np.maximum.accumulate(measured)
    if asked <= measured[-1]:
        rising = np.concatenate([[True], np.diff(measured) > 0])
        return float(np.interp(asked, measured[rising], predicted[rising]))
    steepness = max(measured[-1] / predicted[-1], 0.1)  # noise must not make it jump
    return float(min(0.99, predicted[-1] + (asked - measured[-1]) / steepness))
