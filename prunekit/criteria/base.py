"""What a criterion is: a named function from all axes to one score per slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..axis import Axis
from ..errors import CriterionError, PruneError
from ..plugin import FunctionPlugin
from . import CRITERIA

Need = Literal["nothing", "gradients", "squared_gradients", "activations"]
Scope = Literal["axis", "kind", "model"]
SCOPES: tuple[Scope, ...] = ("axis", "kind", "model")


@dataclass(frozen=True)
class Criterion(FunctionPlugin):
    """A criterion and what it declares about itself.

    Attributes:
        name: What it is registered under.
        function: From all axes, and its options as keywords, to one (size,) score per
            axis; higher means keep.
        options: Values for the function's keyword-only parameters, over its defaults.
        needs: What must be gathered on calibration images first.
        scope: Where its scores are comparable: within an `axis`, within all axes of one
            `kind`, or across the `model`.
        weight_level: Whether it can also score single weights: axes of one `Matrix` each,
            from which it reads nothing by `index`.
        weight_scope: Where the scores of single weights are comparable, if not in `scope`.
    """

    noun: ClassVar[str] = "criterion"
    error: ClassVar[type[PruneError]] = CriterionError

    needs: Need = "nothing"
    scope: Scope = "axis"
    weight_level: bool = False
    weight_scope: Scope | None = None

    def __call__(self, axes: Sequence[Axis]) -> list[Tensor]:
        """Score all axes.

        Returns:
            One (size,) score per axis, on CPU; higher means keep. They are float64, but float32
            for single weights, which are so many that memory counts.

        Raises:
            CriterionError: The function returned too few scores, or a score that is not
                one finite number per slice, or it refused its options.
        """
        with torch.no_grad():
            scores = list(self.function(axes, **self.options))
        if len(scores) != len(axes):
            raise CriterionError(
                f"Criterion {self.name!r} returned {len(scores)} scores for {len(axes)} axes; "
                "expected one per axis, in order."
            )
        for n, axis in enumerate(axes):  # one by one, so that what is replaced can be freed
            scores[n] = self._checked(axis, scores[n])
        return scores

    def _checked(self, axis: Axis, score: Tensor) -> Tensor:
        if not isinstance(score, Tensor) or tuple(score.shape) != (axis.size,):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise CriterionError(
                f"Criterion {self.name!r} scored axis {axis.name!r} with shape {got}; "
                f"expected ({axis.size},), one number per slice."
            )
        score = score.detach().to("cpu", torch.float32 if axis.of_weights else torch.float64)
        bad = int((~torch.isfinite(score)).sum())
        if bad:
            raise CriterionError(
                f"Criterion {self.name!r} scored {bad} of the {axis.size} slices of axis "
                f"{axis.name!r} NaN or infinite; check the weights and the calibration data."
            )
        return score


def criterion(
    name: str,
    *,
    needs: Need = "nothing",
    scope: Scope = "axis",
    weight_level: bool = False,
    weight_scope: Scope | None = None,
) -> Callable[[Callable[..., Sequence[Tensor]]], Criterion]:
    """Register a function as a criterion; the decorated name becomes the `Criterion`.

    Args:
        name: What `--criterion` and `prune(criterion=...)` will call it.
        needs: "gradients" if it reads `member.grad`, "squared_gradients" if `grad_square`,
            "activations" if `inputs` or `outputs`.
        scope: Where its scores are comparable; what `--scope` defaults to.
        weight_level: Whether it can score single weights too, for `--granularity weight`.
        weight_scope: Where those are comparable, if not in `scope`.

    Raises:
        RegistryError: Another criterion has the name.
    """

    def register(function: Callable[..., Sequence[Tensor]]) -> Criterion:
        return CRITERIA.add(
            name, Criterion(name, function, needs, scope, weight_level, weight_scope)
        )

    return register
