"""Within: an adapter for a part of a model, in the names of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..axis import AUX, AxisSpec
from .base import Adapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..arguments import Inputs


class Within(Adapter):
    """What another adapter says of a part, with the part's name before all names.

    Attributes:
        inner: Knows the part.
        part: The part's name in the model.
        inputs: What the part is called with.
    """

    def __init__(self, inner: Adapter, part: str, inputs: Inputs):
        self.inner, self.part, self.inputs = inner, part, inputs
        self.name, self.guesses = inner.name, inner.guesses  # type: ignore[misc]
        self.kinds = inner.kinds

    @property
    def origin(self) -> str:
        """Where the other adapter was defined."""
        return self.inner.origin

    @property
    def default_kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the other adapter."""
        return self.inner.default_kinds

    def matches(self, model: nn.Module) -> bool:
        """Say whether the other adapter knows the part."""
        return self.inner.matches(self.inside(model))

    def seeing(self, model: nn.Module, example: Inputs) -> Within:
        """Let the other adapter look at the part of a model that was cut out of this one."""
        return self.around(self.inner.seeing(self.inside(model), self.inputs))

    def around(self, inner: Adapter) -> Within:
        """Return the same with another adapter for the part."""
        return Within(inner, self.part, self.inputs)

    def inside(self, model: nn.Module) -> nn.Module:
        """Return the part."""
        return model.get_submodule(self.part)

    def axes(self, model: nn.Module) -> list[AxisSpec]:
        """Declare what may shrink in the part."""
        return [renamed(spec, self.outward) for spec in self.inner.axes(self.inside(model))]

    def role(self, parameter: str) -> str:
        """Return what a weight matrix of the part does; all others have no say."""
        inner = self.inward(parameter)
        return AUX if inner is None else self.inner.role(inner)

    def unfollowed(self, model: nn.Module) -> Iterable[str]:
        """Name what the graph must not couple to any axis."""
        return [self.outward(name) for name in self.inner.unfollowed(self.inside(model))]

    def blocks(self, model: nn.Module) -> list[str]:
        """Name the part's blocks."""
        return [self.outward(name) for name in self.inner.blocks(self.inside(model))]

    def fixup(self, model: nn.Module, left: Mapping[str, int]) -> None:
        """Reset what the part caches about its own shape."""
        inside = {self.inward(name) or name: count for name, count in left.items()}
        self.inner.fixup(self.inside(model), inside)

    def settle(self, model: nn.Module, left: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Reset what the part caches about positions of its own."""
        inside = {inner: dims for name, dims in left.items() if (inner := self.inward(name))}
        self.inner.settle(self.inside(model), inside)

    def outward(self, name: str) -> str:
        """Return the name in the whole model of what the part calls so."""
        return f"{self.part}.{name}"

    def inward(self, name: str) -> str | None:
        """Return the name in the part of what the whole model calls so; None if it is outside."""
        start = f"{self.part}."
        return name.removeprefix(start) if name.startswith(start) else None


def renamed(spec: AxisSpec, change: Callable[[str], str]) -> AxisSpec:
    return replace(
        spec,
        name=change(spec.name),
        layer=change(spec.layer) if spec.layer else None,
        owner=change(spec.owner) if spec.owner else None,
        match=change(spec.match) if spec.match else None,
        ties=tuple(replace(tie, parameter=change(tie.parameter)) for tie in spec.ties),
        branch=spec.branch.renamed(change) if spec.branch else None,
    )
