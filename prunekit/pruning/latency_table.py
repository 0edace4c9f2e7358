"""latency_terms: what a model's time is made of, measured while everything in it shrinks.

Copies of the model in which all axes keep the same fraction of their slices run in turn, and every
module's own time is taken down. How large a module still was in each copy, in terms of what it
computes with, gives a curve of its time; a plan is then predicted from the sizes it leaves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Gt, MinLen
from torch import nn
from typing_extensions import TypedDict

from ..arguments import tensors_of
from ..axis import Axis, cuts
from ..cutting.shrink import shrunk
from ..files.reading import read_json
from ..inputs.subject import Subject
from ..measuring.branches import Branches
from ..measuring.own_times import own_times
from ..measuring.provenance import device_name, versions
from ..measuring.saving import Conditions
from ..planning.budget import Place, Term
from ..planning.curve import Curve
from ..planning.left import of_positions, positions_left
from ..planning.plan import Plan
from .cache import folder_for, write

KEPT = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)  # fractions of every axis, beside the whole

Own = dict[str, Annotated[float, Gt(0)]]  # module to its own time, in nanoseconds


class Table(TypedDict):
    """What was measured.

    Attributes:
        times: Of the model as it is, and of the copy for each fraction in `KEPT`.
    """

    times: Annotated[list[Own], MinLen(2)]


def latency_terms(
    subject: Subject, axes: Sequence[Axis], multiple: int, conditions: Conditions
) -> tuple[Term, ...]:
    """Return every module's own time, in nanoseconds, and how it depends on what may shrink.

    What was measured once is kept in a folder and read from there, see `cache.folder_for`. Any
    criterion, ratio and scope uses the same.
    """
    branches = Branches(axes)
    axes = of_positions(axes)  # a branch is there or not, which needs no curve
    plans = [_keeping(axes, fraction, multiple) for fraction in KEPT]
    place = folder_for("latency") / f"{_digest(subject, plans, conditions)}.json"
    if not place.exists():
        write(place, {"times": _measured(subject, axes, plans, conditions)})
    table = read_json(place, Table, advice="remove it, and it is measured again")
    return tuple(_terms(subject.model, axes, branches, plans, table["times"]))


def _keeping(axes: Sequence[Axis], fraction: float, multiple: int) -> Plan:
    """Return the plan in which all axes keep a fraction, in sizes that plans may have."""
    kept = {}
    for axis in axes:
        length = axis.size // axis.spec.groups
        step = multiple if axis.spec.rounded and length > multiple else 1
        count = min(length, step * max(1, round(fraction * length / step)))
        starts = range(0, axis.size, length)
        kept[axis.name] = tuple(start + n for start in starts for n in range(count))
    return Plan(kept, {axis.name: axis.size for axis in axes}, "latency", 0.0, 0.0)


def _measured(
    subject: Subject, axes: Sequence[Axis], plans: Sequence[Plan], conditions: Conditions
) -> list[Own]:
    model, example = conditions.ready(subject.model, subject.example)
    copies = [shrunk(model, axes, plan, subject.adapter).eval() for plan in plans]
    return own_times([model, *copies], example, conditions.batch)


def _terms(
    model: nn.Module,
    axes: Sequence[Axis],
    branches: Branches,
    plans: Sequence[Plan],
    times: Sequence[Own],
) -> Iterator[Term]:
    left = [positions_left(axes, plan) for plan in plans]
    lengths = {place: cut[0][1].weight.shape[place[1]] for place, cut in cuts(axes).items()}

    def size(dims: Sequence[Place], kept: Mapping[str, Mapping[int, torch.Tensor]]) -> float:
        found = 1.0
        for name, dim in dims:
            found *= len(kept[name][dim]) / lengths[name, dim]
        return found

    depends = _Dependence(model, axes)
    whole, *smaller = times
    for name, cost in whole.items():
        dims = depends.on(name)
        there = [(size(dims, kept), own[name]) for kept, own in zip(left, smaller, strict=True)]
        curve = Curve.fitted(*zip((1.0, cost), *there, strict=True)) if dims else None
        yield Term(cost, (*dims, *branches.on(name, dims)), curve)


class _Dependence:
    """Says which dimensions a module's own time depends on."""

    def __init__(self, model: nn.Module, axes: Sequence[Axis]):
        self._model, self._cuts = model, cuts(axes)
        self._homes: dict[str, list[Place]] = {}
        for axis in axes:
            first = axis.voters[0]
            home = self._homes.setdefault(_common([m.name for m in axis.members]), [])
            if (first.name, first.dim) not in home:
                home.append((first.name, first.dim))

    def on(self, name: str) -> tuple[Place, ...]:
        """Return those of its largest parameter; without any, of the axes that are around it."""
        module = self._model.get_submodule(name)
        own = dict(module.named_parameters(name, recurse=False))
        if own and name not in self._homes:
            largest = max(own, key=lambda parameter: own[parameter].numel())
            dims = ((largest, dim) for dim in range(own[largest].dim()))
            return tuple(place for place in dims if place in self._cuts)
        while name not in self._homes and name:
            name = name.rpartition(".")[0]
        return tuple(self._homes.get(name, ()))


def _common(parameters: Sequence[str]) -> str:
    """Return the innermost module that holds some parameters."""
    paths = [name.split(".")[:-1] for name in parameters]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _digest(subject: Subject, plans: Sequence[Plan], conditions: Conditions) -> str:
    """Say in one word what times depend on: the model's shapes, what shrinks, and the machine."""
    model = subject.model
    device = next(model.parameters()).device
    said: list[Any] = [
        [type(model).__module__, type(model).__qualname__],
        [[name, list(tensor.shape)] for name, tensor in model.named_parameters()],
        [{name: len(kept) for name, kept in plan.kept.items()} for plan in plans],
        [tuple(x.shape) for x in tensors_of(subject.example)],
        [device_name(device), torch.get_num_threads(), versions()["torch"]],
        [conditions.batch, conditions.dtype],
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
