"""What a criterion is: a named function from all axes to one score per slice."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..axis import Axis
from ..errors import CriterionError
from ..registry import unknown
from . import CRITERIA

Need = Literal["nothing", "gradients"]
Scope = Literal["axis", "kind", "model"]
SCOPES: tuple[Scope, ...] = ("axis", "kind", "model")


@dataclass(frozen=True)
class Criterion:
    """A criterion and what it declares about itself.

    Attributes:
        name: What it is registered under.
        function: From all axes, and its options as keywords, to one (size,) score per
            axis; higher means keep.
        needs: What must be gathered on calibration images first.
        scope: Where its scores are comparable: within an `axis`, within all axes of one
            `kind`, or across the `model`.
        options: Values for the function's keyword-only parameters, over its defaults.
    """

    name: str
    function: Callable[..., Sequence[Tensor]]
    needs: Need = "nothing"
    scope: Scope = "axis"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where the function was defined, as "module:name"."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    @property
    def defaults(self) -> dict[str, Any]:
        """The options it knows, with their default values."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def configure(self, **options: Any) -> Criterion:
        """Return this criterion with other options.

        Raises:
            CriterionError: It has no such option, or the value is of another type than
                the default.
        """
        for option, value in options.items():
            if option not in self.defaults:
                known = list(self.defaults)
                said = unknown(f"option of criterion {self.name!r}", option, known)
                raise CriterionError(said if known else f"Criterion {self.name!r} has no options.")
            default = self.defaults[option]
            if type(value) is not type(default):
                raise CriterionError(
                    f"Option {option!r} of criterion {self.name!r} got {value!r}; expected "
                    f"{type(default).__name__}, such as {default!r}."
                )
        return replace(self, options={**self.options, **options})

    def parse(self, option: str, text: str) -> Any:
        """Turn an option's text, as written on a command line, into its default's type.

        Raises:
            CriterionError: The text cannot be read so.
        """
        default = self.defaults.get(option)
        value: Any
        if isinstance(default, bool):
            value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
        elif isinstance(default, int | float):
            try:
                value = type(default)(text)
            except ValueError:
                value = None
        else:
            return text
        if value is None:
            raise CriterionError(
                f"Option {option!r} of criterion {self.name!r} got {text!r}; expected "
                f"{type(default).__name__}, such as {default!r}."
            )
        return value

    def __call__(self, axes: Sequence[Axis]) -> list[Tensor]:
        """Score all axes.

        Returns:
            One (size,) float64 score per axis, on CPU; higher means keep.

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
        return [self._checked(axis, score) for axis, score in zip(axes, scores, strict=True)]

    def _checked(self, axis: Axis, score: Tensor) -> Tensor:
        if not isinstance(score, Tensor) or tuple(score.shape) != (axis.size,):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise CriterionError(
                f"Criterion {self.name!r} scored axis {axis.name!r} with shape {got}; "
                f"expected ({axis.size},), one number per slice."
            )
        bad = int((~torch.isfinite(score)).sum())
        if bad:
            raise CriterionError(
                f"Criterion {self.name!r} scored {bad} of the {axis.size} slices of axis "
                f"{axis.name!r} NaN or infinite; check the weights and the calibration data."
            )
        return score.detach().to("cpu", torch.float64)


def criterion(
    name: str, *, needs: Need = "nothing", scope: Scope = "axis"
) -> Callable[[Callable[..., Sequence[Tensor]]], Criterion]:
    """Register a function as a criterion; the decorated name becomes the `Criterion`.

    Args:
        name: What `--criterion` and `prune(criterion=...)` will call it.
        needs: "gradients" if it reads `member.grad`.
        scope: Where its scores are comparable; what `--scope` defaults to.

    Raises:
        RegistryError: Another criterion has the name.
    """

    def register(function: Callable[..., Sequence[Tensor]]) -> Criterion:
        return CRITERIA.add(name, Criterion(name, function, needs, scope))

    return register
