"""Attending: what modules that attend know of their heads, and what to change when some leave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..axis import AxisSpec, Tie
from .dims import QK
from .forwards import JOINED, SCALE, freed, sizes_of
from .multihead import FewerHeads
from .words import HEAD, HEAD_DIM

COUNTS = re.compile(r"(?!.*(dim|size|per_)).*heads?$")  # names of attributes that count heads
SIZED = re.compile(r".*(dim|size)")  # and of those that say how many dimensions there are


@dataclass(frozen=True)
class Attending:
    """A module that has heads.

    Attributes:
        axis: The name of its heads' axis.
        heads: How many it has.
        dims: Axes of the dimensions inside heads, to how many each head has.
        shapes: Of all its tensors.
        joined: The weight whose columns are the channels that all heads return, if one is known.
    """

    axis: str
    heads: int
    dims: Mapping[str, int]
    shapes: Mapping[str, torch.Size]
    joined: str | None

    def sizes(self, left: Mapping[str, int]) -> list[tuple[int, int]]:
        """Return what sizes were multiples of, and are now: of heads, and of their dimensions."""
        heads = left.get(self.axis, self.heads)
        each = [(size, left.get(name, size)) for name, size in self.dims.items()]
        return [(self.heads, heads), *((self.heads * size, heads * now) for size, now in each)]


def attending(model: nn.Module, specs: Sequence[AxisSpec]) -> dict[str, Attending]:
    """Return the modules that hold what heads own, by their names."""
    shapes = {name: tensor.shape for name, tensor in _tensors(model).items()}
    found = {}
    for spec in specs:
        if spec.kind != HEAD:
            continue
        heads = spec.ties[0].fold.size
        for path in dict.fromkeys(path for tie in spec.ties for path in _holders(tie, spec)):
            if not _holds_heads(model.get_submodule(path)):
                continue
            within = {name: shape for name, shape in shapes.items() if _is_in(name, path)}
            reads = [t.parameter for t in spec.ties if t.parameter in within and t.dim == 1]
            joined = next((name for name in reads if within[name][1] > heads), None)
            found[path] = Attending(spec.name, heads, _dims(spec, specs), within, joined)
    return found


def _dims(heads: AxisSpec, specs: Sequence[AxisSpec]) -> dict[str, int]:
    """Return the axes of what is inside some heads, to how many slices a head has."""
    inside = [s for s in specs if s.kind == HEAD_DIM and s.name.rpartition(".")[0] == heads.owner]
    return {spec.name: spec.ties[0].fold.size // spec.groups for spec in inside}


def reduce_(model: nn.Module, modules: Mapping[str, Attending], left: Mapping[str, int]) -> None:
    """Put right what modules of a smaller model know of their heads, and how they reshape.

    Args:
        model: Its parameters are cut already.
        modules: What they were before.
        left: Axis to how many slices are left.
    """
    tensors = _tensors(model)
    for path, one in modules.items():
        if all(tensors[name].shape == shape for name, shape in one.shapes.items()):
            continue
        module = model.get_submodule(path)
        if any(before != now for before, now in one.sizes(left)):
            _recount_(module, one, left, tensors)
            _rescale_(module, one, left)
        if type(module) in (nn.MultiheadAttention, FewerHeads):
            FewerHeads.become_(module)
            continue
        module.__class__ = freed(type(module))  # type: ignore[arg-type]
        if one.joined is not None:
            setattr(module, JOINED, tensors[one.joined].shape[1])


def _recount_(
    module: nn.Module, one: Attending, left: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> None:
    """Set the attributes that count heads, their dimensions, or channels of all heads."""
    heads = left.get(one.axis, one.heads)
    sizes = {size: left[name] for name, size in one.dims.items() if name in left} | {
        before: after
        for name, shape in one.shapes.items()
        for before, after in zip(shape, tensors[name].shape, strict=True)
        for whole, now in one.sizes(left)
        if before != after and before % whole == 0 and after == before // whole * now
    }
    shaping = sizes_of(type(module))  # type: ignore[arg-type]
    for name, value in list(vars(module).items()):
        if isinstance(value, int) and COUNTS.match(name) and value % one.heads == 0:
            setattr(module, name, value // one.heads * heads)
        elif (
            isinstance(value, int) and name in shaping and (value != one.heads or SIZED.match(name))
        ):
            setattr(module, name, sizes.get(value, value))
        elif isinstance(value, tuple) and name in shaping and _ends_with(value, one.heads, name):
            setattr(module, name, (*value[:-1], heads))


def _rescale_(module: nn.Module, one: Attending, left: Mapping[str, int]) -> None:
    """Let attention that divides by the root of a head's dimensions divide by what it did."""
    for name, size in one.dims.items():
        if name.endswith(f".{QK}") and name in left and getattr(module, SCALE, None) is None:
            setattr(module, SCALE, size**-0.5)


def _holds_heads(module: nn.Module) -> bool:
    """Say whether a module may know of its heads: of torch's own, one does."""
    own = type(module).__module__.startswith("torch.nn.")
    return not own or (isinstance(module, nn.MultiheadAttention) and FewerHeads.fits(module))


def _ends_with(sizes: tuple[object, ...], heads: int, name: str) -> bool:
    """Say whether the last of some sizes counts heads; a window may be as wide as there are."""
    return sizes[-1:] == (heads,) and "window" not in name


def merged(specs: Sequence[AxisSpec]) -> list[AxisSpec]:
    """Put the heads of one module together, which counts them only once, and name them after it.

    Where heads are mixed, those before and those after it do not depend on each other.
    """
    found: dict[str, AxisSpec] = {}
    for spec in specs:
        owner = _owner(spec) if spec.kind == HEAD else None
        name = f"{owner}.{HEAD}" if owner else spec.name
        before = found.get(name)
        if before and before.ties[0].fold.size == spec.ties[0].fold.size:
            found[name] = replace(before, ties=before.ties + spec.ties)
        elif before:
            found[spec.name] = replace(spec, owner=owner)
        else:
            found[name] = replace(spec, name=name, owner=owner)
    return list(found.values())


def _owner(spec: AxisSpec) -> str | None:
    """Return the module that attends with some heads; None if several share them."""
    found = {path for tie in spec.ties for path in list(_holders(tie, spec))[-1:]}
    whole = [path for path in found if all(_is_in(tie.parameter, path) for tie in spec.ties)]
    return max(whole, key=len, default=None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _holders(tie: Tie, spec: AxisSpec) -> Iterator[str]:
    """Yield the modules that a parameter is in, up to one that writes and reads its heads."""
    path = tie.parameter.rpartition(".")[0]
    while path:
        yield path
        if {0, 1} <= {other.dim for other in spec.ties if _is_in(other.parameter, path)}:
            return
        path = path.rpartition(".")[0]


def _is_in(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")
