"""The criteria once more, slowly and plainly, from the papers and with loops only.

An axis is given here as a list of its voting layers, and a layer as the list of its slices,
each a 2-D array (positions of the slice, everything else).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from prunekit.axis import AUX, Axis, Member

Layers = list[list[np.ndarray]]


def layers_of(axis: Axis, tensor: Callable[[Member], object] = lambda m: m.weight) -> Layers:
    """Cut each voting member of an axis into its slices."""
    return [
        cut(np.asarray(tensor(member), np.float64), member.dim, member.index.numpy())
        for member in axis.members
        if member.role != AUX
    ]


def cut(values: np.ndarray, dim: int, index: np.ndarray) -> list[np.ndarray]:
    """Take each slice's positions out of dimension `dim`."""
    slices = []
    for positions in index:
        taken = np.take(values, positions, axis=dim)
        slices.append(np.moveaxis(taken, dim, 0).reshape(len(positions), -1))
    return slices


def magnitude(layers: Layers, p: int) -> list[float]:
    """Li et al. 2017, per weight: (sum |w|^p / number of weights)^(1/p)."""
    scores = []
    for j in range(len(layers[0])):
        weights = [abs(w) for layer in layers for w in layer[j].ravel()]
        scores.append((sum(w**p for w in weights) / len(weights)) ** (1 / p))
    return scores


def energy(piece: np.ndarray) -> float:
    return sum(w * w for w in piece.ravel())


def lamp(layers: Layers) -> list[float]:
    """Lee et al. 2021: s_j over the sum of all s that are not smaller; all layers as one."""
    s = [sum(energy(layer[j]) for layer in layers) for j in range(len(layers[0]))]
    return eq10(s)


def eq10(s: Sequence[float]) -> list[float]:
    """He and Zhou 2024, Eq. 10: what leaves, over what the layer holds when its turn comes."""
    return [own / sum(other for other in s if other >= own) for own in s]


def dimap(layers: Layers) -> list[float]:
    """DIMAP.md section 2: one order of leaving for all layers, then the mean of Eq. 10."""
    e = [[energy(piece) for piece in layer] for layer in layers]
    count = len(e[0])
    t = [sum(e_l[i] / sum(e_l) for e_l in e) for i in range(count)]
    scores = []
    for j in range(count):
        stays = [i for i in range(count) if t[i] >= t[j]]  # all that leave no earlier than j
        scores.append(sum(e_l[j] / sum(e_l[i] for i in stays) for e_l in e) / len(e))
    return scores


def fpgm(layers: Layers) -> list[float]:
    """He et al. 2019, Eq. 8: the sum of distances to all others; layers are joined."""
    vectors = [
        np.concatenate([layer[j].ravel() for layer in layers]) for j in range(len(layers[0]))
    ]
    return [sum(math.dist(own, other) for other in vectors) for own in vectors]


def taylor(layers: Layers, gradients: Layers, square: bool) -> list[float]:
    """Molchanov et al. 2019: sum |w g|, or with `square` the group form (sum w g)^2."""
    scores = []
    for j in range(len(layers[0])):
        products = [
            w * g
            for layer, gradient in zip(layers, gradients, strict=True)
            for w, g in zip(layer[j].ravel(), gradient[j].ravel(), strict=True)
        ]
        scores.append(sum(products) ** 2 if square else sum(abs(x) for x in products))
    return scores
