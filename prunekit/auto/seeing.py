"""Seeing: what `auto` knows of one model, which it has looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from torch import Tensor, nn

from ..adapters.base import Adapter
from ..arguments import Inputs, batch_of
from ..axis import AxisSpec
from ..errors import AdapterError
from ..naming import some
from ..tracing.running import dry_run
from .attending import attending, merged, reduce_
from .axes import axes_found, weights_by_role
from .branches import branches_found
from .dims import head_dims
from .following import Follower
from .heads import Heads
from .parts import Parted, resize_
from .rules import rule_of
from .sizes import Sizes, feature_info
from .words import INSIDE, KINDS, NAME, WIDTH

ENOUGH = 0.5  # of a model's parameters; with less in reach, most ratios would be out of it


class Seeing(Adapter):
    """What `auto` knows of one model.

    Attributes:
        left_out: Names of axes that are not offered.
        idle: Names of weight matrices that took no part in the forward pass, not even in that of
            a model that trains.
    """

    name = NAME
    kinds = KINDS
    guesses = True

    def __init__(self, model: nn.Module, example: Inputs, left_out: Collection[str] = ()):
        self.left_out = frozenset(left_out)
        self._model, self._example = model, example
        self._roles: Mapping[str, str] = {}
        self._found: list[AxisSpec] | None = None
        self._parted: list[Parted] = []
        self._sizes = Sizes(model)
        self.idle: tuple[str, ...] = ()

    @property
    def default_kinds(self) -> tuple[str, ...]:  # type: ignore[override]
        """What is inside blocks; all there is where that is little of the model."""
        specs = self.axes(self._model)
        inside = {t.parameter for s in specs if s.kind in INSIDE for t in s.ties}
        sizes = {name: tensor.numel() for name, tensor in self._model.named_parameters()}
        little = sum(sizes.get(name, 0) for name in inside) < ENOUGH * sum(sizes.values())
        return tuple(kind for kind in KINDS if kind in INSIDE or (little and kind == WIDTH))

    def without(self, names: Collection[str]) -> Seeing:
        """Return the same without some axes."""
        made = Seeing(self._model, self._example, self.left_out | set(names))
        made._found, made._parted = self._found, self._parted
        made._roles, made._sizes = self._roles, self._sizes
        return made

    def matches(self, model: nn.Module) -> bool:
        """Say yes, as `auto` does."""
        return True

    def seeing(self, model: nn.Module, example: Inputs) -> Adapter:
        """Look at another model, of which the same axes are left out."""
        return Seeing(model, example, self.left_out)

    def axes(self, model: nn.Module) -> list[AxisSpec]:
        """Declare what goes together and may shrink, of all kinds."""
        if model is not self._model or self._found is None:
            follower, inside = _followed(model, batch_of(self._example))
            found = merged(axes_found(follower))
            found += head_dims(found, axes_found(inside)) if inside else []
            found = [spec for spec in found if all(one.allows(spec) for one in follower.parted)]
            if not found:
                stopped = some(list(follower.stopped))
                raise AdapterError(
                    f"Nothing of {type(model).__name__} can shrink: all that it computes reaches "
                    "the output, or goes through operations that nobody can follow"
                    f"{f' ({stopped})' if stopped else ''}. Write an adapter for it "
                    "(docs/own_adapter.md)."
                )
            self._roles = weights_by_role(follower, found)
            branches = dry_run(model, batch_of(self._example), branches_found)
            found += [one for one in branches if _has_say(one, self._roles)]
            self._sizes.found(follower)
            self.idle = _idle(model, follower)
            if model is self._model:
                self._found, self._parted = found, follower.parted
        else:
            found = self._found
        return [spec for spec in found if spec.name not in self.left_out]

    def role(self, parameter: str) -> str:
        """Return what a weight matrix does, `aux` if nothing passes it."""
        if not self._roles:
            self.axes(self._model)
        return self._roles.get(parameter, "aux")

    def fixup(self, model: nn.Module, left: Mapping[str, int]) -> None:
        """Reset the sizes that models of timm cache."""
        self._sizes.reset_(model)
        reduce_(model, attending(self._model, self._found or []), left)

    def settle(self, model: nn.Module, left: Mapping[str, Mapping[int, Tensor]]) -> None:
        """Reset the sizes of parts that modules split channels by."""
        resize_(model, self._parted, left)


def _has_say(branch: AxisSpec, roles: Mapping[str, str]) -> bool:
    """Say whether the layer that a branch ends in multiplies with its weight as it is."""
    return branch.branch is not None and f"{branch.branch.last}.weight" in roles


def _followed(
    model: nn.Module, example: Inputs, attempts: int = 2
) -> tuple[Follower, Follower | None]:
    """Follow a model; twice where channels are split in several, for what they are shows later.

    Operations are told apart by their numbers, which are others the second time if the model
    remembers something from the first, such as indices that it makes once; then all is done again.

    Returns:
        What is known of the model if its heads may leave, and if the dimensions of heads may; None
        if it has no heads.
    """
    heads = Heads()
    first = dry_run(model, example, partial(_follow, heads=heads))
    found = heads.found()
    if found is None:
        return first, None
    second = dry_run(model, example, partial(_follow, heads=Heads(found)))
    if second.step != first.step and attempts > 1:
        return _followed(model, example, attempts - 1)
    if not found:
        return second, None
    return second, dry_run(model, example, partial(_follow, heads=Heads(found, inside=True)))


def _follow(model: nn.Module, inputs: Inputs, heads: Heads) -> Follower:
    """Follow a model as it evaluates, and the heads that only run while it trains."""
    watched = {info["module"]: info["num_chs"] for info in feature_info(model)}
    follower = Follower(model, rule_of, watched, heads)
    follower.follow(inputs)
    if _idle(model, follower):
        with _training(model, _idle(model, follower)), suppress(Exception):  # it stays idle then
            follower.follow(inputs)
    return follower


def _idle(model: nn.Module, follower: Follower) -> tuple[str, ...]:
    """Return the names of weight matrices that took no part so far."""
    matrices = (name for name, tensor in model.named_parameters() if tensor.dim() > 1)
    return tuple(name for name in matrices if name not in follower.used)


@contextmanager
def _training(model: nn.Module, idle: Collection[str]) -> Iterator[None]:
    """Tell the modules that hold idle weights that they train, and no other: not their layers."""
    holders = [
        module
        for name, module in model.named_modules()
        if any(weight.startswith(f"{name}." if name else "") for weight in idle)
        and next(module.children(), None) is not None
    ]
    try:
        for module in holders:
            module.training = True
        yield
    finally:
        for module in holders:
            module.training = False
