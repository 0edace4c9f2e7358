"""weight_axes: the weight matrices of a model whose single values may become zero."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from .adapters.base import Adapter
from .axis import AUX, Axis, matrix_axis
from .errors import AdapterError
from .registry import unknown

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weight_axes(
    model: nn.Module,
    adapter: Adapter,
    roles: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Axis]:
    """Return an axis for every weight of a linear or convolution layer that is not `aux`.

    Args:
        model: Nothing of it is copied; the axes share its weights.
        adapter: Knows the role of each weight.
        roles: Only these; all unless given.
        include: Globs on parameter names; only these. All unless given.
        exclude: Globs on parameter names; not these.

    Raises:
        AdapterError: A role or a pattern matches nothing, or nothing is left.
    """
    axes = [axis for axis in _all(model, adapter) if axis.kind != AUX]
    known = list(dict.fromkeys(axis.kind for axis in axes))
    for role in roles:
        if role not in known:
            raise AdapterError(
                unknown(f"module of single weights of {type(model).__name__}", role, known)
            )
    for pattern in (*include, *exclude):
        if not any(fnmatch.fnmatchcase(axis.name, pattern) for axis in axes):
            raise AdapterError(
                f"The pattern {pattern!r} matches no weight matrix; they are called like "
                f"{', '.join(axis.name for axis in axes[:3])}."
            )
    chosen = [
        axis
        for axis in axes
        if (not roles or axis.kind in roles)
        and (not include or any(fnmatch.fnmatchcase(axis.name, p) for p in include))
        and not any(fnmatch.fnmatchcase(axis.name, p) for p in exclude)
    ]
    if not chosen:
        raise AdapterError(
            "There is no weight matrix to mask; exclude less, include more, or give some a role "
            "other than 'aux' in the adapter."
        )
    return chosen


def _all(model: nn.Module, adapter: Adapter) -> list[Axis]:
    own = dict(model.named_parameters())  # a matrix that two layers share has one name here
    names = [f"{n}.weight" for n, layer in model.named_modules() if isinstance(layer, LAYERS)]
    return [
        matrix_axis(name, adapter.role(name), own[name].detach()) for name in names if name in own
    ]
