"""A model whose single weights were masked, and how right it is on test images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from prunekit import Result, prune
from prunekit.comparison.statistics import interval
from prunekit.criteria.base import Scope
from prunekit.errors import BudgetError
from prunekit.measuring.accuracy import percentages
from prunekit.planning.budget import By
from prunekit.shared import Shared

from .parts import Cells, Correct, Plain, Settings, pack


@dataclass(frozen=True)
class Choice:
    """Which weights leave, and how many.

    Attributes:
        criterion: Scores them.
        scope: Where they compete.
        ratio: The fraction that becomes zero,
        by: of all parameters (`params`) or of the matrices that may be masked (`slices`).
    """

    criterion: str
    scope: Scope
    ratio: float
    by: By


def cell(settings: Settings, model: str, choice: Choice | None = None, **more: Any) -> Plain:
    """Return everything that determines a figure, but for the device."""
    own = settings.of(model)
    own.pop("device")
    return {**own, **(asdict(choice) if choice else {}), **more}


def mask(settings: Settings, model: str, choice: Choice, **more: Any) -> Result:
    """Mask a model; `more` is passed on to `prune`."""
    own = settings.of(model)
    level: Any = {"granularity": "weight", "scope": choice.scope, "by": choice.by}
    return prune(own.pop("model"), choice.criterion, choice.ratio, **level, **own, **more)


class OneShot:
    """Masked models on test images, each of which is only looked at once."""

    def __init__(self, settings: Settings):
        self.settings, self.cells, self.shared = settings, Cells(settings, "one_shot"), Shared()

    def __call__(self, model: str, choice: Choice) -> Plain:
        """Return what is known of a model that was masked, or why it cannot be."""
        found = self.cells.once(
            cell(self.settings, model, choice),
            lambda: one_shot(self.settings, model, choice, self.shared),
        )
        said = f"{found['masked']['top1']:.2f}" if "masked" in found else found["problem"]
        how = (choice.criterion, choice.scope, f"{choice.ratio:g} of {choice.by}")
        print(model, *how, said, flush=True)
        return found


def one_shot(settings: Settings, model: str, choice: Choice, shared: Shared) -> Plain:
    """Mask a model, and find out how right it and the dense one are; or why it cannot be."""
    try:
        result = mask(settings, model, choice, evaluate=True, timed=False, shared=shared)
    except BudgetError as error:
        return {"problem": str(error)}
    assert result.correct is not None
    before, after = (side.numpy() for side in result.correct)
    return {
        "dense": accuracy(before, result.before.top5),
        "masked": accuracy(after, result.after.top5),
        "correct": pack(after),
        "images": len(after),
        **sizes(result),
    }


def accuracy(correct: Correct, top5: float | None) -> Plain:
    """Return top-1 with its 95 % confidence interval and top-5, in percent."""
    low, high = interval([correct])
    return {"top1": float(100 * np.mean(correct)), "low": low, "high": high, "top5": top5}


def accuracy_of(hits: Tensor) -> Plain:
    """Return the same of what `prunekit.measuring.measure.hits` found."""
    return accuracy(hits[:, 0].numpy(), percentages(hits)[1])


def sizes(result: Result) -> Plain:
    """Return non-zero parameters and implied MACs, and those of the dense model."""
    found = result.sparsity
    assert found is not None
    dense = {"dense_params": found.params, "dense_macs": found.macs}
    return {"params": found.nonzero, "macs": found.implied_macs, **dense}
