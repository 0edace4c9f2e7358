"""axes_found: components of coupled positions -> axes that an adapter can declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..axis import AxisSpec, Places, Tie
from .coupled import STAYS, Coupled, Place
from .following import Follower
from .words import CONV, HEAD, MLP, PROJ, QKV, WIDTH


@dataclass(frozen=True)
class _Slices:
    """Components that own positions of the same dimensions, equally many of each.

    Attributes:
        places: Which dimensions.
        rows: For each of them the positions that each slice owns, (slices, k).
        added: Whether values of different origin are added up along it.
        attend: Whether matrices are multiplied for each of them: whether they are heads.
    """

    places: Sequence[Place]
    rows: Sequence[np.ndarray]
    added: bool
    attend: bool

    @property
    def size(self) -> int:
        return len(self.rows[0])


def axes_found(follower: Follower) -> list[AxisSpec]:
    """Return what may shrink, in the order in which the model computes it.

    Args:
        follower: Has followed the model.
    """
    order = {name: number for number, name in enumerate(follower.weights)}
    found = []
    for slices in _grouped(follower.coupled):
        matrices = [place for place in slices.places if place.tensor in order]
        if slices.size > 1 and matrices:
            first = min(matrices, key=lambda place: (order[place.tensor], place.dim))
            found.append((order[first.tensor], first.dim, first, slices))
    named: dict[str, int] = {}
    specs = []
    for *_, first, slices in sorted(found, key=lambda entry: entry[:2]):
        name = first.tensor.removesuffix(".weight")
        named[name] = named.get(name, 0) + 1
        if named[name] > 1:
            name = f"{name}#{named[name]}"
        specs.append(_spec(name, slices, follower))
    return specs


def _spec(name: str, slices: _Slices, follower: Follower) -> AxisSpec:
    ties = tuple(
        Tie(place.tensor, place.dim, Places(place.length, tuple(map(tuple, rows.tolist()))))
        for place, rows in zip(slices.places, slices.rows, strict=True)
    )
    single = all(rows.shape[1] == 1 for rows in slices.rows)  # one channel, not a group of them
    return AxisSpec(name, _kind(slices, follower), ties=ties, rounded=single)


def _kind(slices: _Slices, follower: Follower) -> str:
    """Sort an axis: `width` if several share it, `mlp` between linear layers, else `conv`."""
    if slices.attend:
        return HEAD
    matrices = [
        (place, rows)
        for place, rows in zip(slices.places, slices.rows, strict=True)
        if place.tensor in follower.weights
    ]
    partly = any(place.dim and rows.size < place.length for place, rows in matrices)
    writers = {place.tensor for place, _ in matrices if place.dim == 0}
    if slices.added or partly or not writers:
        return WIDTH
    return CONV if any(place.tensor in follower.kernels for place, _ in matrices) else MLP


def _grouped(coupled: Coupled) -> Iterator[_Slices]:
    """Put components together that own equally many positions of the same dimensions."""
    component, added, attend = coupled.components()
    places = list(coupled.places.values())
    at = np.concatenate([np.full(place.length, n) for n, place in enumerate(places)])
    position = np.concatenate([np.arange(place.length) for place in places])
    of = component[1 : 1 + len(at)]  # what comes after belongs to no tensor
    free = of != component[STAYS]
    of, at, position = of[free], at[free], position[free]
    order = np.lexsort((position, at, of))
    of, at, position = of[order], at[order], position[order]
    starts, counts = _runs(of, at)
    of, owns = of[starts], np.stack([at[starts], counts], axis=1)
    firsts, lengths = _runs(of)
    alike: dict[tuple[bytes, bool, bool], list[int]] = {}  # what they own -> where they start
    for first, length in zip(firsts, lengths, strict=True):
        number = of[first]
        key = owns[first : first + length].tobytes(), bool(added[number]), bool(attend[number])
        alike.setdefault(key, []).append(first)
    for (owned, *what), members in alike.items():
        which, each = np.frombuffer(owned, owns.dtype).reshape(-1, 2).T
        table = position[starts[members][:, None] + np.arange(each.sum())]
        table = table[np.lexsort(table.T[::-1])]
        parts = np.split(table, np.cumsum(each)[:-1], axis=1)
        yield _Slices([places[n] for n in which], parts, *what)


def _runs(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where runs of equal keys start, and how long they are."""
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    starts = np.flatnonzero(np.concatenate([[len(keys[0]) > 0], changes]))
    return starts, np.diff(np.append(starts, len(keys[0])))


def weights_by_role(follower: Follower, specs: Sequence[AxisSpec]) -> Mapping[str, str]:
    """Return what every weight matrix does.

    What writes heads is `qkv`, and what reads them `proj`; of all others, those with a kernel are
    `conv`, and the rest `mlp`.
    """
    roles = {name: CONV if name in follower.kernels else MLP for name in follower.weights}
    ties = [tie for spec in specs if spec.kind == HEAD for tie in spec.ties]
    attending = {tie.parameter: PROJ if tie.dim else QKV for tie in ties if tie.parameter in roles}
    return {**roles, **attending}
