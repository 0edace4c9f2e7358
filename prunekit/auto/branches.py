"""branches_found: residual branches of any model, from what is added to what it was made of.

A branch ends where two values of one shape are added, one of which was computed from the other. It
can leave whole if some layer lies on every way through it: without that layer's weight, what comes
out is the same at every position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..adapters.branches import branch_axis
from ..arguments import Inputs, call
from ..axis import AxisSpec
from ..branch import BLOCK
from ..naming import is_within
from ..tracing.layers import MATRICES
from ..tracing.running import plainly
from ..tracing.shapes import Shapes, is_composite

ADDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass(frozen=True)
class _Call:
    """A module that ran, from one operation up to another.

    Attributes:
        name: The module's.
        start, end: How many operations were done when it began, and when it returned.
    """

    name: str
    start: int
    end: int

    def within(self, start: int, end: int) -> bool:
        return start <= self.start and self.end <= end


@dataclass(frozen=True)
class _Sum:
    """Two values of one shape that are added.

    Attributes:
        at: The number of the operation.
        terms: The operations that made them.
        inside: The innermost module that runs.
    """

    at: int
    terms: tuple[int, int]
    inside: str


@dataclass(frozen=True)
class _Found:
    """The names that a `Branch` is made of."""

    modules: tuple[str, ...]
    core: str
    last: str
    after: tuple[str, ...]


def branches_found(model: nn.Module, inputs: Inputs) -> list[AxisSpec]:
    """Return an axis for every branch that may leave whole, in the order in which they run.

    Args:
        model: Its values are of no interest, so it may be on the meta device.
        inputs: One batch.
    """
    watcher = _Watcher(model)
    watcher.run(inputs)
    ends = {branch: one for one in watcher.sums for branch in watcher.branches(one)}
    found = [(one, branch) for branch, one in ends.items()]
    modules = [set(branch.modules) for _, branch in found]
    outer = {n for n, own in enumerate(modules) for other in modules if _contains(own, other)}
    kept = [(one, branch) for n, (one, branch) in enumerate(found) if n not in outer]
    alone = Counter(one.inside for one, _ in kept)
    return [
        branch_axis(
            model,
            f"{one.inside if alone[one.inside] == 1 and one.inside else branch.core}.{BLOCK}",
            branch.modules,
            core=branch.core,
            last=branch.last,
            after=branch.after,
        )
        for one, branch in kept
    ]


def _contains(modules: set[str], others: set[str]) -> bool:
    """Say whether one branch is computed inside another, or with some of the same modules."""
    if modules == others:
        return False
    return any(f"{other}.".startswith(f"{module}.") for other in others for module in modules)


class _Watcher(Shapes):  # type: ignore[no-untyped-call]
    """Notes what every operation is computed from, and which modules run meanwhile."""

    def __init__(self, model: nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self.sums: list[_Sum] = []
        self._model = model
        self._parents: list[list[int]] = []  # of every operation
        self._made: dict[int, int] = {}  # from a value to the operation that made it last
        self._alive: list[Tensor] = []  # or another value might get the same identity
        self._calls: list[_Call] = []
        self._running: list[tuple[str, int]] = []

    def run(self, inputs: Inputs) -> None:
        """Run the model."""
        handles = []
        for name, module in self._model.named_modules():
            handles += [
                module.register_forward_pre_hook(self._enter(name), prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        try:
            with plainly(), self:
                self._note(inputs, [])
                call(self._model, inputs)
        finally:
            for handle in handles:
                handle.remove()
        self._counts = Counter(one.name for one in self._calls)

    def _enter(self, name: str) -> Any:
        return lambda *_: self._running.append((name, len(self._parents)))

    def _leave(self, *_: object) -> None:
        name, start = self._running.pop()
        self._calls.append(_Call(name, start, len(self._parents)))

    def _note(self, made: Any, parents: list[int]) -> None:
        """Note an operation and what it made."""
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._made[id(value)] = len(self._parents)
                self._alive.append(value)
        self._parents.append(parents)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it is computed from."""
        kwargs = kwargs or {}
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        known = [
            self._made[id(value)]
            for value in tree_leaves((args, kwargs))
            if isinstance(value, Tensor) and id(value) in self._made
        ]
        result = self.looked_up(func, args, kwargs)
        if func in ADDS and len(known) == 2 and args[0].shape == args[1].shape:
            self.sums.append(_Sum(len(self._parents), (known[0], known[1]), self._running[-1][0]))
        if known:  # what is made of parameters alone depends on no input
            self._note(result, known)
        return result

    def branches(self, one: _Sum) -> Iterator[_Found]:
        """Yield the branch that ends in a sum, if one does."""
        stream, end = sorted(one.terms)
        between = self._between(stream, end)
        if stream == end or stream not in between:
            return
        calls = [
            call
            for call in self._calls
            if call.within(stream + 1, one.at) and self._counts[call.name] == 1
        ]
        layers = [call for call in calls if self._is_layer(call) and call.end - 1 in between]
        last = next((call for call in reversed(layers) if self._alone(call, stream, end)), None)
        if last is None:
            return
        active = _outermost([call for call in calls if self._computes(call, between)])
        core = next(call for call in active if _holds(call, last))
        after = [call for call in calls if call.start >= last.end and self._computes(call, between)]
        # What only runs in training, such as dropping whole branches, must not drop the constant.
        idle = [
            call
            for call in calls
            if core.end <= call.start == call.end and is_within(call.name, one.inside)
        ]
        own = _outermost([*active, *idle])
        yield _Found(
            modules=tuple(call.name for call in own),
            core=core.name,
            last=last.name,
            after=tuple(call.name for call in _outermost(after)),
        )

    def _between(self, stream: int, end: int) -> set[int]:
        """Return the operations that a value was computed by since another one was."""
        found, open_ = {end}, [end]
        while open_:
            for parent in self._parents[open_.pop()]:
                if parent >= stream and parent not in found:
                    found.add(parent)
                    open_.append(parent)
        return found

    def _alone(self, layer: _Call, stream: int, end: int) -> bool:
        """Say whether a value depends on nothing but through a layer."""
        own = layer.end - 1
        found, open_ = {end}, [end] if end != own else []
        while open_:
            at = open_.pop()
            if at <= stream:
                return False
            for parent in self._parents[at]:
                if parent != own and parent not in found:
                    found.add(parent)
                    open_.append(parent)
        return True

    def _is_layer(self, call: _Call) -> bool:
        return isinstance(self._model.get_submodule(call.name), MATRICES)

    def _computes(self, call: _Call, between: set[int]) -> bool:
        return any(at in between for at in range(call.start, call.end))


def _holds(outer: _Call, inner: _Call) -> bool:
    return inner.within(outer.start, outer.end) and f"{inner.name}.".startswith(f"{outer.name}.")


def _outermost(calls: Sequence[_Call]) -> list[_Call]:
    """Return the calls that no other of them holds, in the order in which they ran."""
    names = {call.name for call in calls}

    def is_held(name: str) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:n]) in names for n in range(1, len(parts)))

    return sorted((call for call in calls if not is_held(call.name)), key=lambda call: call.start)
