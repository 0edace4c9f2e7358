"""Prunings that are right, of small models of all families."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from ..models import Shape
from .adapters import shapes

KINDS = {
    "vit": ("mlp", "head", "head_dim", "width"),
    "swin": ("mlp", "head", "head_dim", "width"),
    "convnext": ("mlp", "width"),
    "small": ("mlp", "width"),
}
CRITERIA = (
    "dimap", "fisher", "flap", "fpgm", "lamp", "magnitude", "magnitude:p=1", "random", "taylor",
    "vbp", "wanda",
)  # fmt: skip


@dataclass(frozen=True)
class Pruning:
    """A pruning.

    Attributes:
        family: Of the model: `vit`, `swin`, `convnext`, or `small` for one that is not timm's.
        shape: Of a small one.
        dtype: Of the weights.
        criterion, ratio, by, scope, axes, floor, multiple, steps, repair, granularity: As in
            `prunekit.prune`.
    """

    family: str = "vit"
    shape: Shape = field(default_factory=Shape)
    dtype: str = "float32"
    criterion: str = "magnitude"
    ratio: float = 0.5
    by: str = "params"
    scope: str | None = None
    axes: tuple[str, ...] = ("mlp",)
    floor: float = 0.1
    multiple: int = 1
    steps: int = 1
    repair: str = "none"
    granularity: str = "slice"

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `prune`."""
        names = ("ratio", "by", "scope", "axes", "floor", "multiple", "steps", "repair")
        if self.granularity != "slice":
            names = ("ratio", "by")
        return {**{name: getattr(self, name) for name in names}, "granularity": self.granularity}


@st.composite
def prunings(draw: st.DrawFn) -> Pruning:
    """Return prunings that should work, or cannot only because of their budget."""
    pick = st.sampled_from
    family = draw(pick(["vit", "vit", "swin", "convnext", "small"]))
    informed = family != "small"  # statistics need images
    kinds = st.lists(pick(KINDS[family]), min_size=1, max_size=3, unique=True)
    weights = draw(st.integers(0, 5)) == 0
    return Pruning(
        family=family,
        shape=draw(shapes()) if family == "small" else Shape(),
        dtype=draw(pick(["float32"] * 5 + ["float64", "bfloat16", "float16"])),
        criterion=draw(pick(CRITERIA if informed and not weights else _UNINFORMED)),
        ratio=draw(st.one_of(st.floats(0.02, 0.95), pick([0.25, 0.5, 0.75, 0.001, 0.99]))),
        by=draw(pick(["params", "macs", "slices"])),
        scope=draw(pick([None, "axis", "kind", "model"])),
        axes=tuple(draw(kinds)),
        floor=draw(pick([0.0, 0.0, 0.1, 0.1, 0.1, 0.3, 0.9, 1.0])),
        multiple=draw(pick([1, 1, 1, 1, 2, 2, 4, 8, 1000])),
        steps=draw(pick([1, 1, 2, 5])),
        repair=draw(pick(["none", "bias", "lstsq"])) if informed and not weights else "none",
        granularity="weight" if weights else "slice",
    )


_UNINFORMED = ("magnitude", "random", "dimap", "lamp")
