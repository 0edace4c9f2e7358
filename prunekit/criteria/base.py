"""What a criterion is: a named function from all axes to one score per slice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..axis import Axis, tensors_of
from ..errors import CriterionError, PruneError
from ..guard import reading_only
from ..plugin import Allowed, FunctionPlugin, calling, shown
from ..registry import unknown
from . import CRITERIA

Need = Literal[
    "nothing", "gradients", "squared_gradients", "activations", "covariances", "curvatures"
]
Scope = Literal["axis", "kind", "model"]
Loss = Literal["labels", "self"]
NEEDS: tuple[Need, ...] = get_args(Need)
LOSSES: tuple[Loss, ...] = get_args(Loss)
OF_LOSS: tuple[Need, ...] = ("gradients", "squared_gradients", "curvatures")
LOSS = Allowed("'labels' or 'self'", lambda loss: loss in LOSSES)
SCOPES: tuple[Scope, ...] = get_args(Scope)


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
        refine: From an axis and the slices that a plan keeps of it, and the options as keywords,
            to as many others that are better; None if the scores say all.
    """

    noun: ClassVar[str] = "criterion"
    error: ClassVar[type[PruneError]] = CriterionError

    needs: Need = "nothing"
    scope: Scope = "axis"
    weight_level: bool = False
    weight_scope: Scope | None = None
    refine: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse words that mean nothing."""
        super().__post_init__()
        words = [("needs", self.needs, NEEDS), ("scope", self.scope, SCOPES)]
        if self.weight_scope is not None:
            words.append(("weight_scope", self.weight_scope, SCOPES))
        for what, word, known in words:
            if word not in known:
                raise CriterionError(f"{self.title}: {unknown(what, str(word), known)}")
        if self.refine is not None and not callable(self.refine):
            raise CriterionError(
                f"{self.title} has the refine {shown(self.refine)}; expected a function of an axis "
                "and the slices that are kept."
            )

    @property
    def loss(self) -> Loss:
        """What its gradients are of: the `labels`, or the model's own answers (`self`)."""
        if self.needs not in OF_LOSS:
            return "labels"
        found: Loss = {**self.defaults, **self.options}.get("loss", "labels")
        if found not in LOSSES:
            raise CriterionError(f"{self.title}: {unknown('loss', str(found), LOSSES)}")
        return found

    @property
    def needs_labels(self) -> bool:
        """Whether it looks at labels."""
        return self.needs in OF_LOSS and self.loss == "labels"

    def __call__(self, axes: Sequence[Axis]) -> list[Tensor]:
        """Score all axes, and see to it that nothing else happens.

        Returns:
            One (size,) score per axis, on CPU; higher means keep. They are float64, but float32
            for single weights, which are so many that memory counts.

        Raises:
            CriterionError: The function failed, or it returned too few scores, or a score that
                is not one finite number per slice.
            TamperedError: It wrote to what the axes hold.
        """
        with reading_only(self.title, lambda: tensors_of(axes)):
            return self.unguarded(axes)

    def refined(self, axis: Axis, kept: Sequence[int]) -> tuple[int, ...]:
        """Return the slices to keep of an axis, where a plan keeps so many.

        Raises:
            CriterionError: `refine` failed, or it returned something else than as many slices, as
                many of every group.
            TamperedError: It wrote to what the axis holds.
        """
        assert self.refine is not None, "only such criteria refine plans"
        with (
            reading_only(self.title, lambda: tensors_of([axis])),
            torch.no_grad(),
            calling(f"The refine of {self.title}", self.name, CriterionError),
        ):
            found = self.refine(axis, torch.tensor(kept), **self.options)
        whole = isinstance(found, Tensor) and not found.is_floating_point() and found.dim() == 1
        if not whole or bool(((found < 0) | (found >= axis.size)).any()):
            raise CriterionError(
                f"The refine of {self.title} returned {_described(found)} for axis {axis.name!r}; "
                f"expected a tensor of whole numbers, those of {len(kept)} of its {axis.size} "
                "slices, from 0."
            )
        chosen = tuple(sorted(found.tolist()))
        length = axis.size // axis.spec.groups
        counts = [
            sum(slice_ // length == group for slice_ in set(one))
            for one in (kept, chosen)
            for group in range(axis.spec.groups)
        ]
        same = counts[: axis.spec.groups] == counts[axis.spec.groups :]
        if not same or len(chosen) != len(kept):
            raise CriterionError(
                f"The refine of {self.title} keeps {len(set(chosen))} slices of axis "
                f"{axis.name!r} where the plan keeps {len(kept)}; expected as many, and as many of "
                "every group."
            )
        return chosen

    def unguarded(self, axes: Sequence[Axis]) -> list[Tensor]:
        """Score all axes, which the function could write to.

        Raises:
            CriterionError: As above.
        """
        with torch.no_grad(), calling(self.title, self.name, CriterionError):
            # A list of its own, since others share this one.
            scores = self._listed(self.function(list(axes), **self.options), len(axes))
            for n, axis in enumerate(axes):  # one by one, so that what is replaced can be freed
                scores[n] = self._checked(axis, scores[n])
        return scores

    def _listed(self, result: Any, count: int) -> list[Any]:
        if not isinstance(result, Iterable):
            raise CriterionError(
                f"{self.title} returned {shown(result)} for {count} axes; expected a list, one "
                "score per axis, in order."
            )
        scores = list(itertools.islice(result, count + 1))  # it may have no end
        if len(scores) != count:
            found = f"more than {count}" if len(scores) > count else len(scores)
            raise CriterionError(
                f"{self.title} returned {found} scores for {count} axes; "
                "expected one per axis, in order."
            )
        return scores

    def _checked(self, axis: Axis, score: Any) -> Tensor:
        fits = isinstance(score, Tensor) and tuple(score.shape) == (axis.size,)
        if not fits or score.is_complex():
            raise CriterionError(
                f"{self.title} scored axis {axis.name!r} with {_described(score)}; "
                f"expected a tensor of shape ({axis.size},), one real number per slice."
            )
        plain: Tensor = score.detach()
        plain = plain.to("cpu", torch.float32 if axis.of_weights else torch.float64)
        bad = int((~torch.isfinite(plain)).sum())
        if bad:
            raise CriterionError(
                f"{self.title} scored {bad} of the {axis.size} slices of axis "
                f"{axis.name!r} NaN or infinite; check the weights and the calibration data."
            )
        return plain


def _described(score: Any) -> str:
    if not isinstance(score, Tensor):
        return shown(score)
    numbers = " of complex numbers" if score.is_complex() else ""
    return f"a tensor of shape {tuple(score.shape)}{numbers}"


def criterion(
    name: str,
    *,
    needs: Need = "nothing",
    scope: Scope = "axis",
    weight_level: bool = False,
    weight_scope: Scope | None = None,
    refine: Callable[..., Tensor] | None = None,
    allowed: Mapping[str, Allowed] | None = None,
) -> Callable[[Callable[..., Sequence[Tensor]]], Criterion]:
    """Register a function as a criterion; the decorated name becomes the `Criterion`.

    Args:
        name: What `--criterion` and `prune(criterion=...)` will call it.
        needs: "gradients" if it reads `member.grad`, "squared_gradients" if `grad_square`,
            "activations" if `inputs` or `outputs`, "covariances" if `covariance` too,
            "curvatures" if that and `curvature`.
        scope: Where its scores are comparable; what `--scope` defaults to.
        weight_level: Whether it can score single weights too, for `--granularity weight`.
        weight_scope: Where those are comparable, if not in `scope`.
        refine: What exchanges slices once a plan says how many stay: a function of an axis, the
            slices that are kept, (count,), and the same options.
        allowed: Which values an option may have, for those that may not have all.

    Raises:
        RegistryError: Another criterion has the name.
        CriterionError: The function takes other arguments, or a word means nothing.
    """

    def register(function: Callable[..., Sequence[Tensor]]) -> Criterion:
        made = Criterion(
            name, function, needs, scope, weight_level, weight_scope, refine, allowed=allowed or {}
        )
        return CRITERIA.add(name, made)

    return register
