"""The criteria once more, slowly and plainly, from the papers and with loops only.

An axis is given here as a list of its voting layers, and a layer as the list of its slices,
each a 2-D array (positions of the slice, everything else).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prunekit.axis import AUX, Axis, Member

Layers = list[list[np.ndarray]]


def layers_of(axis: Axis, tensor: Callable[[Member], object] = lambda m: m.weight) -> Layers:
    """Cut each voting member of an axis into its slices."""
    return [
        cut(np.asarray(tensor(member), np.float64), member.dim, member.index.numpy())
        for member in axis.members
        if member.role != AUX
    ]


def reading_layers_of(axis: Axis) -> Layers:
    """Cut each voting member whose inputs the slices are; each voting member if there is none."""
    members = [member for member in axis.members if member.role != AUX]
    layers = layers_of(axis)
    reading = [layer for layer, m in zip(layers, members, strict=True) if m.dim == 1]
    return reading or layers


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
    """Eq. 10 for slices: one order of leaving for all layers, then the mean of Eq. 10."""
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


def fisher(layers: Layers, squares: Layers) -> list[float]:
    """LeCun et al. 1989, Eq. 5, with E[g^2] for the diagonal of the Hessian."""
    scores = []
    for j in range(len(layers[0])):
        scores.append(
            sum(
                w * w * square / 2
                for layer, of_layer in zip(layers, squares, strict=True)
                for w, square in zip(layer[j].ravel(), of_layer[j].ravel(), strict=True)
            )
        )
    return scores


# --- with activations --------------------------------------------------------------------

Raw = dict[str, tuple[np.ndarray, np.ndarray]]


def activations(model: nn.Module, images: Tensor) -> Raw:
    """Run a model; return by weight what its layer read and returned, (rows, features) each."""
    raw, handles = {}, []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def keep(layer, inputs, output, name=name):
                at = 1 if isinstance(layer, nn.Conv2d) else -1
                both = (x.numpy().astype(np.float64) for x in (inputs[0], output))
                both = (np.moveaxis(x, at, -1) for x in both)
                raw[f"{name}.weight"] = tuple(x.reshape(-1, x.shape[-1]) for x in both)

            handles.append(layer.register_forward_hook(keep))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return raw


def depthwise(weight: Tensor) -> bool:
    return weight.dim() == 4 and weight.shape[1] == 1


def wanda(axis: Axis, raw: Raw) -> list[float]:
    """Sun et al. 2023, Eq. 1, with the norm per row and the mean over all that a slice owns."""
    products = layers_of(axis, lambda member: np.abs(member.weight.numpy()) * met(member, raw))
    means = []
    for j in range(axis.size):
        own = [product for layer in products for product in layer[j].ravel()]
        means.append(sum(own) / len(own))
    return means


def met(member: Member, raw: Raw) -> np.ndarray:
    """Return the root mean square of what each weight is multiplied with, in its shape."""
    columns = raw[member.name][0].T
    sizes = [math.sqrt(sum(x * x for x in column) / len(column)) for column in columns]
    along = 0 if depthwise(member.weight) else 1
    shape = [len(sizes) if dim == along else 1 for dim in range(member.weight.dim())]
    return np.reshape(sizes, shape) * np.ones(member.weight.shape)


def read_columns(axis: Axis, raw: Raw) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return per slice (activations, weights that meet them) of all features read of it."""
    slices = [[] for _ in range(axis.size)]
    for member in axis.voters:
        if member.dim == 1 or depthwise(member.weight):
            weight = np.moveaxis(member.weight.numpy().astype(np.float64), member.dim, 0)
            for j, positions in enumerate(member.index):
                slices[j] += [(raw[member.name][0][:, p], weight[p].ravel()) for p in positions]
    return slices


def of_products(axis: Axis, raw: Raw) -> list[float]:
    """The variance of q * k over all pairs of a query and a key, wherever they are from."""
    (member,) = axis.voters
    outputs = raw[member.name][1]
    return [np.outer(outputs[:, q], outputs[:, k]).var() for q, k in member.index]


def flap(axis: Axis, raw: Raw) -> list[float]:
    """An et al. 2024: variance times squared norm of the weight's column, standardised."""
    s = [sum(x.var() * energy(w) for x, w in pieces) for pieces in read_columns(axis, raw)]
    s = s if any(s) else of_products(axis, raw)
    mean = sum(s) / len(s)
    spread = math.sqrt(sum((x - mean) ** 2 for x in s) / len(s))
    return [(x - mean) / spread for x in s]


def vbp(axis: Axis, raw: Raw) -> list[float]:
    """Berisha et al. 2025: the variance of what is read of a slice."""
    columns = read_columns(axis, raw)
    if not any(columns):
        return of_products(axis, raw)
    return [sum(x.var() for x, _ in pieces) / len(pieces) for pieces in columns]


def least_squares(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of what a layer lacks, by stacking the penalty under the data.

    Minimises mean |y - (weight + D) x - b|^2 + lambda |D|^2, where lambda is `ridge` times the mean
    variance of the inputs; (samples, inputs) and (samples, outputs) go in.
    """
    n, inputs = x.shape
    centred, target = x - x.mean(0), y - y.mean(0)
    penalty = math.sqrt(n * ridge * centred.var(0).mean()) * np.eye(inputs)
    lacking = target - centred @ weight.T
    stacked = np.vstack([lacking, np.zeros((inputs, y.shape[1]))])
    change, *_ = np.linalg.lstsq(np.vstack([centred, penalty]), stacked, rcond=None)
    fitted = weight + change.T
    return fitted, y.mean(0) - fitted @ x.mean(0)


def logits_error(q: np.ndarray, k: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """Return the mean squared error of (left q) . (right k) over all pairs, relative to q . k."""
    logits = q @ k.T
    return float(((logits - (q @ left.T) @ (k @ right.T).T) ** 2).sum() / (logits**2).sum())


def left_over(x: np.ndarray, weight: np.ndarray, gone: list[int], ridge: float) -> float:
    """What refitting leaves of tr(G dW A dW^T), by solving the regression; G is the identity.

    The columns `gone` of the weight are lost, and the change D of the others minimises
    mean |x D^T|^2 + lambda |D|^2 over all columns, lambda being `ridge` times the mean variance.
    """
    centred = x - x.mean(0)
    kept = [column for column in range(x.shape[1]) if column not in gone]
    penalty = ridge * centred.var(0).mean()
    rows = np.vstack([centred / math.sqrt(len(x)), math.sqrt(penalty) * np.eye(x.shape[1])])
    lost = rows[:, gone] @ weight[:, gone].T
    change, *_ = np.linalg.lstsq(rows[:, kept], lost, rcond=None)
    return float(((lost - rows[:, kept] @ change) ** 2).sum())


def obs(axis: Axis, raw: Raw, scale: Callable[[Member], np.ndarray], ridge: float) -> list[float]:
    """Remove slices one by one, each time trying out all others, refitted.

    `scale` is what the rows of a reading layer's weight are multiplied with, as a matrix. Costs
    that fall are averaged with those before them, and none is divided by a price.
    """
    readers = [member for member in axis.voters if member.dim == 1]
    data = [(raw[m.name][0], scale(m) @ m.weight.flatten(1).double().numpy()) for m in readers]

    def cost(slices: list[int]) -> float:
        return sum(
            left_over(x, w, [int(c) for j in slices for c in m.index[j]], ridge)
            for m, (x, w) in zip(readers, data, strict=True)
        )

    gone: list[int] = []
    steps: list[list[float]] = []  # runs of slices: what they cost on average, and how many
    before = 0.0
    for _ in range(axis.size):
        tried = {j: cost([*gone, j]) for j in range(axis.size) if j not in gone}
        best = min(tried, key=tried.__getitem__)
        gone.append(best)
        steps.append([tried[best] - before, 1])
        before = tried[best]
        while len(steps) > 1 and steps[-2][0] > steps[-1][0]:
            (a, m), (b, n) = steps[-2:]
            steps[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    level = [mean for mean, count in steps for _ in range(int(count))]
    return [level[gone.index(j)] for j in range(axis.size)]
