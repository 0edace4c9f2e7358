"""weight_axes: the weight matrices of a model whose single values may become zero."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..adapters.answers import role_of
from ..adapters.base import Adapter
from ..axis import AUX, Axis, matrix_axis
from ..errors import AdapterError
from ..globs import matching
from ..registry import unknown
from ..tracing.layers import MATRICES


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
    names = matching([axis.name for axis in axes], include, exclude, "weight matrix")
    chosen = [axis for axis in axes if axis.name in names and (not roles or axis.kind in roles)]
    if not chosen:
        raise AdapterError(
            "There is no weight matrix to mask; exclude less, include more, or give some a role "
            "other than 'aux' in the adapter."
        )
    return chosen


def in_groups(axes: Sequence[Axis], m: int) -> tuple[list[Axis], list[str]]:
    """Return the matrices whose inputs come in groups of m, and a warning about any others.

    Layers of one input per output, such as depthwise convolutions, have no groups; they are left
    out, with the warning.

    Raises:
        AdapterError: A layer has more inputs than one, and m does not divide them; or no layer
            is left.
    """
    inputs = {axis.name: axis.members[0].weight.shape[1] for axis in axes}
    for name, count in inputs.items():
        if count > 1 and count % m:
            raise AdapterError(
                f"{name!r} has {count} inputs, which cannot be divided into groups of {m}; leave "
                f"it out with --exclude {name!r} (exclude=[{name!r}]), or choose another pattern."
            )
    fit = [axis for axis in axes if inputs[axis.name] > 1]
    single = [name for name, count in inputs.items() if count == 1]
    if not fit:
        raise AdapterError(
            f"None of the chosen layers has groups of {m} inputs; those of {single[0]!r} and its "
            "like have one input only. Choose other kinds with --axes."
        )
    if not single:
        return fit, []
    return fit, [
        f"Left out {len(single)} layers of one input per output, such as {single[0]}, where "
        f"there are no groups of {m}."
    ]


def _all(model: nn.Module, adapter: Adapter) -> list[Axis]:
    own = dict(model.named_parameters())  # a matrix that two layers share has one name here
    names = [f"{n}.weight" for n, layer in model.named_modules() if isinstance(layer, MATRICES)]
    return [
        matrix_axis(name, role_of(adapter, name), own[name].detach())
        for name in names
        if name in own
    ]
