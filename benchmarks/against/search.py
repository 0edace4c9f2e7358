"""The ratio of channels that meets a budget of MACs."""

import time
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from .pruned import (
    CLOSE,
    MORE_TRIES,
    NARROW,
    NEAR,
    SAME,
    TRIES,
    BrokenError,
    Choice,
    Found,
    Informed,
    Pruned,
)
from .side import _compared, _counted


def search(
    informed: Informed, choice: Choice, target: float, example: Tensor, seed: int = 0
) -> Found:
    """Look for the pruning ratio that removes `target` of the MACs.

    One ratio serves channels and heads. Since few heads make for large steps, that may miss; then
    the heads keep the ratio that came nearest, and another is sought for the channels.
    """

    def attempt(ratio: float, heads: float) -> Pruned:
        return _counted(informed, choice, (ratio, heads), example, seed)

    start = time.perf_counter()
    found = _bisect(lambda ratio: attempt(ratio, ratio), target, TRIES)
    heads = found.ratios[1]
    if choice.axes == NARROW and found.best and abs(found.best.macs - target) > CLOSE:
        more = _bisect(lambda ratio: attempt(ratio, heads), target, MORE_TRIES)
        better = more.best and abs(more.best.macs - target) < abs(found.best.macs - target)
        nearest = replace(more, ratios=(more.ratios[0], heads)) if better else found
        problems, tries = found.problems | more.problems, found.tries + more.tries
        found = replace(nearest, problems=problems, tries=tries)
    found = replace(found, seconds=time.perf_counter() - start)
    if found.best is None:
        return found
    return replace(found, best=_compared(informed, found.best, example))


def _bisect(attempt: Callable[[float], Pruned], target: float, tries: int) -> Found:
    """Close in on the target, by interpolation and bisection in turn.

    A ratio that breaks counts as too large.
    """
    low, high, best, problems = (0.0, 0.0), (1.0, 1.0), None, {}  # ratios and their MACs
    for tried in range(1, tries + 1):
        share = (target - low[1]) / (high[1] - low[1]) if tried % 2 else 0.5
        ratio = low[0] + share * (high[0] - low[0])
        try:
            made = attempt(ratio)
        except BrokenError as error:
            problems[ratio] = str(error)
            high = ratio, high[1]
            continue
        if best is None or abs(made.macs - target) < abs(best[1].macs - target):
            best = ratio, made
        if abs(made.macs - target) <= NEAR or high[0] - low[0] < SAME:
            break
        if made.macs < target:
            low = ratio, max(made.macs, low[1])
        else:
            high = ratio, min(made.macs, high[1])
    ratio, made = best or (float("nan"), None)
    return Found((ratio, ratio), made, tried, 0.0, problems)
