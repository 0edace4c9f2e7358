"""Follower: watches the operations of a forward pass, and notes which positions they couple.

Every value that a model computes carries layers of numbers: for each of its dimensions that some
tensor's positions decide, which positions those are. An operation moves them, couples those of its
operands, or, where nothing is known about it, makes them stay.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..arguments import Inputs, call
from ..tracing.norms import channel_dim, normalises
from ..tracing.outputs import tensors_by_name
from ..tracing.running import plainly
from ..tracing.shapes import Shapes, is_composite
from .coupled import Coupled, along, line, varying
from .heads import Heads
from .parts import Parted, splitting

EXPAND = torch.ops.aten.expand.default
Layers = list[Tensor]  # of numbers; each has the shape of the value
# Given the follower, the operation, its arguments by name, and what it returned.
Rule = Callable[["Follower", Any, dict[str, Any], Any], None]


class Follower(Shapes):  # type: ignore[no-untyped-call]
    """What is known of the values of one model while it runs.

    Attributes:
        coupled: What goes together.
        weights: Names of all parameters that something was multiplied with, in order of use.
        kernels: Those of convolutions that look at more than one position.
        parted: Modules that keep the sizes they split channels by.
        step: How many operations it has seen.
        used: Names of all parameters and buffers that some operation was given.
        stopped: Names of operations that nobody could follow, though they were given channels.
        channels: Module that was to be watched, to the numbers of its output's channels.
    """

    def __init__(
        self,
        model: nn.Module,
        rule_of: Callable[[Any], Rule | None],
        watched: Mapping[str, int] | None = None,
        heads: Heads | None = None,
    ):
        """Look at a model that is to be followed.

        Args:
            model: Its values are of no interest, so it may be on the meta device.
            rule_of: From an operation to how numbers go through it.
            watched: Modules, to how many channels their outputs have.
            heads: Where heads are split off; None: that is to be found out.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule_of = rule_of
        self.heads = heads or Heads()
        own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.coupled = Coupled({name: tensor.shape for name, tensor in own.items()})
        self.heads.coupled = self.coupled
        self.weights: dict[str, None] = {}
        self.kernels: set[str] = set()
        self.used: set[str] = set()
        self.step = 0
        self.stopped: dict[str, None] = {}
        self.parted: list[Parted] = []
        self._owed: dict[int, tuple[weakref.ref[Tensor], Sequence[Tensor]]] = {}
        self.channels: dict[str, Tensor] = {}
        self._watched = watched or {}
        self._kept = own  # or a module that replaces a buffer would let another have its identity
        self._own = {id(tensor): name for name, tensor in own.items()}
        self._storage = {tensor.untyped_storage()._cdata: name for name, tensor in own.items()}
        self._layers: dict[int, tuple[weakref.ref[Tensor], Layers]] = {}
        self._within = 0  # norms that run
        self._ruling = False  # whether numbers are computed with, and not the model's values
        self._model = model
        self._modules = {id(module): name for name, module in model.named_modules()}
        for (name, dim), place in self.coupled.places.items():
            if place.length == 1:  # what is alone cannot leave
                self.coupled.keep(self.coupled.numbers(name, dim))

    def follow(self, inputs: Inputs) -> None:
        """Run the model, and make what it returns stay."""
        with plainly(), self._watching(), self:
            returned = call(self._model, inputs)
        found = list(tensors_by_name(returned).values())
        self._settle(found)
        self.keep(*found)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        handles = []
        for name, module in self._model.named_modules():
            if normalises(module):
                handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
                handles.append(module.register_forward_hook(self._left(name)))
            if name in self._watched:
                handles.append(module.register_forward_hook(self._returned(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, *_: object) -> None:
        self._within += 1

    def _left(self, name: str) -> Any:
        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._within -= 1
            if not self._within:
                with self._reckoning():
                    self._normalised(name, module, args, output)

        return leave

    def _returned(self, name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for value in tensors_in(output)[:1]:
                for layer in self.layers(value):
                    (dim, *others) = varying(layer)
                    if not others and value.shape[dim] == self._watched[name]:
                        with self._reckoning():
                            self.channels.setdefault(name, line(layer, dim))

        return note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, and follow the numbers through it."""
        kwargs = kwargs or {}
        if self._ruling:
            return func(*args, **kwargs)
        self.step += 1
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = self.looked_up(func, args, kwargs)
        if self._owed:
            self._settle(tensors_in(args, kwargs))
        if self._within or not (
            any(self.layers(x) for x in tensors_in(args, kwargs)) or func is EXPAND
        ):
            return result
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        rule = self._rule_of(func)
        try:
            if rule is None or not all(x.numel() for x in tensors_in(args, kwargs)):
                raise LookupError  # nothing is known of it
            with self._reckoning():
                rule(self, func, given, result)
        except Exception:  # torch has thousands of operations, in more forms than rules foresee
            self.stopped[func.__name__.partition(".")[0]] = None
            self.keep(*tensors_in(args, kwargs))
        return result

    @contextmanager
    def _reckoning(self) -> Iterator[None]:
        """Within it, operations are on numbers, which nobody follows or counts."""
        self._ruling = True
        try:
            yield
        finally:
            self._ruling = False

    def layers(self, value: Tensor) -> Layers:
        """Return what decides a value's dimensions."""
        name = self._own.get(id(value))
        if name is not None:
            self.used.add(name)
            return [
                along(self.coupled.numbers(name, dim), dim, value.shape)
                for dim, size in enumerate(value.shape)
                if size > 1
            ]
        found = self._layers.get(id(value))
        return found[1] if found is not None and found[0]() is value else []

    def give(self, value: Tensor, layers: Iterable[Tensor]) -> None:
        """Note what decides a value's dimensions."""
        kept = [layer for layer in layers if varying(layer)]
        self._layers[id(value)] = (weakref.ref(value), kept)

    def owe(self, value: Tensor, layers: Sequence[Tensor]) -> None:
        """Make layers stay as soon as something reads a value, such as a mean over heads."""
        if layers:
            self._owed[id(value)] = (weakref.ref(value), layers)

    def _settle(self, values: Iterable[Tensor]) -> None:
        """Make stay what is owed for values that are read."""
        for value in values:
            found = self._owed.get(id(value))
            if found is not None and found[0]() is value:
                del self._owed[id(value)]
                self.coupled.keep(*found[1])

    def owner(self, value: Tensor) -> str | None:
        """Return the name of the parameter or buffer that a value is, or is a view of."""
        return self._storage.get(value.untyped_storage()._cdata)

    def attribute_of(self, value: Tensor, name: str) -> Any:
        """Return an attribute of the module whose weight a value is; None if there is none."""
        owner = (self.owner(value) or "").rpartition(".")[0]
        return getattr(self._model.get_submodule(owner), name, None)

    def parted_by(
        self, layer: Tensor, dim: int, asked: int | list[int], parts: Sequence[Tensor]
    ) -> bool:
        """Say whether a module keeps the sizes that something is split by, and take note of it."""
        if varying(layer) != (dim,):
            return False
        owners = self.coupled.owners(line(layer, dim)) or []
        found = splitting(self._modules, asked, layer.shape[dim]) if len(owners) == 1 else None
        if found is None:
            return False
        sizes = tuple(part.shape[dim] for part in parts)
        self.parted.append(Parted(*found, sizes, owners[0].tensor, owners[0].dim))
        return True

    def multiplied(self, value: Tensor, *, kernel: bool = False) -> None:
        """Note that something was multiplied with a parameter."""
        name = self.owner(value)
        if name is not None:
            self.weights[name] = None
            if kernel:
                self.kernels.add(name)

    def keep(self, *values: Tensor) -> None:
        """Make everything stay that decides these values."""
        for value in values:
            self.coupled.keep(*self.layers(value))

    def merged(
        self, values: Sequence[Tensor], shape: Sequence[int], *, added: bool = False
    ) -> Layers:
        """Couple values that meet element by element, and return the layers of what comes out."""
        groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        found = []
        for number, value in enumerate(values):
            for layer in self.layers(value):
                layer = layer.expand(tuple(shape))
                groups.setdefault(varying(layer), []).append((number, layer))
        for dims, entries in groups.items():
            crossing = any(dims != other and set(dims) & set(other) for other in groups)
            there = {number for number, _ in entries}
            lacking = any(
                number not in there and _spans(value, dims, len(shape))
                for number, value in enumerate(values)
            )
            if crossing or lacking:
                self.coupled.keep(*(layer for _, layer in entries))
                if self.heads.sought:  # they may be those of a head yet, divided by its norm
                    found.append(entries[0][1])
                continue
            first, layer = entries[0]
            found.append(layer)
            for number, other in entries[1:]:
                mine = self.owner(values[first]) or self.owner(values[number])
                self.coupled.couple(layer, other, added=added and mine is None)
        return found

    def _normalised(
        self, name: str, module: nn.Module, args: tuple[Any, ...], output: object
    ) -> None:
        """Follow the numbers through a module that normalises over channels."""
        values = tensors_in(args, {})
        if len(values) != 1 or not isinstance(output, Tensor) or output.shape != values[0].shape:
            self.keep(*values)
            return
        x, dim = values[0], channel_dim(module) % values[0].dim()
        own = tensors_in(module._parameters, module._buffers)
        fits = bool(own) and all(tensor.shape == (x.shape[dim],) for tensor in own)
        groups = getattr(module, "num_groups", 1)
        found = []
        for layer in self.layers(x):
            dims = varying(layer)
            if dims == (dim,) and fits:
                numbers = line(layer, dim)
                for tensor in own:
                    self.coupled.couple(numbers, self.coupled.numbers(self._own[id(tensor)], 0))
                lying = numbers.view(groups, -1)
                self.coupled.couple(lying[:1], lying)  # every group keeps as many
            elif dim in dims or isinstance(module, nn.GroupNorm):
                self.coupled.keep(layer)
            found.append(layer)
        if not self.layers(x):
            self.keep(*own)
        self.give(output, found)


def tensors_in(*what: Any) -> list[Tensor]:
    """Return all tensors among some arguments."""
    return [leaf for leaf in tree_leaves(what) if isinstance(leaf, Tensor)]


def _spans(value: Tensor, dims: Iterable[int], rank: int) -> bool:
    """Say whether a value that is broadcast has several entries along one of some dimensions."""
    lacking = rank - value.dim()
    return any(dim >= lacking and value.shape[dim - lacking] > 1 for dim in dims)
