"""Adapters that do what none should, for small models of many forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from ..models import Shape
from .plugins import EXCEPTIONS

METHODS = ("matches", "axes", "role", "unfollowed", "blocks", "fixup")
# What a method returns instead; None is right for some, and then the case must simply work.
RETURNS = ("None", "number", "string", "strings", "unknown", "dict", "class", "generator")
# Changes to one of the specs that `axes` declares: a field, and a value that cannot be.
SPECS: tuple[tuple[str, Any], ...] = (
    ("name", "width"), ("name", ""), ("name", None), ("name", "\x1b[31m"),
    ("kind", "nothing"), ("kind", None), ("kind", ["mlp"]), ("kind", "width"),
    ("layer", "blocks.9.up"), ("layer", "norm"), ("layer", ""), ("layer", 3), ("layer", None),
    ("layer", "head"), ("layer", "blocks"), ("side", "sideways"), ("side", "in"), ("side", None),
    ("groups", 0), ("groups", -1), ("groups", 3), ("groups", 1000), ("groups", 1.5),
    ("groups", None), ("match", "pair"), ("match", 3), ("product", True), ("rounded", None),
    ("owner", "nothing"), ("owner", "head"), ("owner", 3),
    ("fold", "fold"), ("fold", (4, 4)), ("fold", (-1, 16)), ("fold", (0,)),
    ("fold", (10**9, 10**9)),
    ("fold", (2, 8, "along 5")), ("fold", (2, 8, "take 9")), ("fold", (2, 8, "along twice")),
    ("fold", ("a",)), ("ties", "ties"), ("ties", None), ("ties", (None,)),
    ("ties", ("nothing.weight", 0)), ("ties", ("head.weight", 0)), ("ties", ("head.weight", 9)),
    ("ties", ("head.weight", -1)), ("ties", ("embed.weight", 1)), ("ties", ("head.bias", 0)),
    ("ties", (3, 0)), ("ties", ("head.weight", "0")),
)  # fmt: skip
MISSING = ("name", "kinds", "default_kinds", "name-number", "kinds-none", "default-unknown")


@dataclass(frozen=True)
class Case:
    """An adapter and a model.

    Attributes:
        shape: The model's.
        method: The method that misbehaves, if any.
        raises: What it raises: a key of `EXCEPTIONS`.
        returns: What it returns instead: one of `RETURNS`.
        spec: A change to a declared axis: a field and its value.
        which: The axis it is made to: the width, or the first block.
        missing: What the class lacks.
        meddles: Whether `fixup` writes to weights.
        axes: Kinds that are pruned.
        repair: Which repair comes after.
        steps: In how many rounds.
    """

    shape: Shape = field(default_factory=Shape)
    method: str | None = None
    raises: str | None = None
    returns: str | None = None
    spec: tuple[str, Any] | None = None
    which: int = 1
    missing: str | None = None
    meddles: bool = False
    axes: tuple[str, ...] = ("mlp",)
    repair: str = "none"
    steps: int = 1

    @property
    def right(self) -> bool:
        """Whether nothing is wrong with the adapter, so that it must work."""
        return not (self.method or self.spec or self.missing or self.meddles)


def shapes() -> st.SearchStrategy[Shape]:
    """Return shapes of small models."""
    pick = st.sampled_from
    return st.builds(
        Shape,
        form=pick(["list", "sequential", "dict"]),
        output=pick(["tensor", "tensor", "tensor", "tuple", "dict"]),
        width=pick([4, 8, 12]),
        hidden=pick([5, 8, 16]),
        blocks=pick([1, 2]),
        norm=st.booleans(),
        conv=st.booleans(),
        bias=st.booleans(),
    )


def adapters() -> st.SearchStrategy[Case]:
    """Return adapters, most of them wrong."""
    pick = st.sampled_from
    common: dict[str, Any] = {
        "shape": shapes(),
        "axes": pick([("mlp",), ("mlp", "width"), ("width",)]),
        "steps": pick([1, 1, 2]),
    }
    return st.one_of(
        st.builds(Case, **common),
        st.builds(Case, method=pick(METHODS), raises=pick(sorted(EXCEPTIONS)), **common),
        st.builds(Case, method=pick(METHODS), returns=pick(RETURNS), **common),
        st.builds(Case, spec=pick(SPECS), which=pick([0, 1]), **common),
        st.builds(Case, spec=pick(SPECS), which=pick([0, 1]), **common),
        st.builds(Case, missing=pick(MISSING), **common),
        st.builds(Case, meddles=st.just(True), **common),
    )
