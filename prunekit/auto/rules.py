"""How numbers go through torch's operations, one rule for each sort of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .contracting import contracted, convolved
from .coupled import STAYS, along, compressed, line, varying
from .following import Follower, Rule, tensors_in

aten = torch.ops.aten

MOVING = "permute transpose t squeeze unsqueeze flip roll repeat unfold diagonal"
PARTING = "select slice split split_with_sizes unbind"
SHAPING = "view _unsafe_view reshape _reshape_alias view_as"
SPATIAL = (
    "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d "
    "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa "
    "_upsample_bilinear2d_aa reflection_pad2d replication_pad2d _upsample_nearest_exact2d"
)
BATCH_NORMS = (
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "_batch_norm_no_update _batch_norm_with_update"
)
SUMS = "sum linalg_vector_norm norm"  # to which zeros add nothing
REDUCING = f"{SUMS} mean amax amin var std var_mean logsumexp all any"
SOFTMAX = "_softmax _log_softmax _safe_softmax"
UNTAGGED = (  # torch does not say that they work element by element
    "hardswish hardswish_ mish_ gelu_ threshold_ _prelu_kernel masked_fill_ copy_ fill_ zero_"
)
MAKING = (
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_full "
    "new_empty"
)
ADDING = ("add", "add_", "sub", "sub_")


def pointwise(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """Values that meet element by element are coupled."""
    values = tensors_in(given)
    added = func._schema.name.removeprefix("aten::") in ADDING
    follower.give(result, follower.merged(values, result.shape, added=added))


def moving(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """Numbers are moved as the values are."""
    value, *rest = given.values()
    results = result if isinstance(result, list | tuple) else [result]
    moved: list[list[Tensor]] = [[] for _ in results]
    for layer in follower.layers(value):
        found = func(layer, *rest)
        for number, each in enumerate(found if isinstance(found, list | tuple) else [found]):
            moved[number].append(compressed(each))
    for each, layers in zip(results, moved, strict=True):
        follower.give(each, layers)


def parting(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """What is parted in equal parts leaves from each of them alike.

    Of other parts, all stays, unless a module keeps their sizes, which can be reset.
    """
    value, dim = given["self"], given.get("dim", 0) % given["self"].dim()
    parts = result if isinstance(result, list | tuple) else [result]
    sizes = {part.shape[dim] if part.dim() == value.dim() else 1 for part in parts}
    size, length = min(sizes), value.shape[dim]
    asked = given.get("split_size", given.get("split_sizes"))
    for layer in follower.layers(value):
        if dim not in varying(layer) or size == length:
            continue
        if follower.heads.inside(layer) and len(sizes) == 1 and length % size == 0:
            continue  # queries, keys and values, of which each may lose others
        kept = asked is not None and follower.parted_by(layer, dim, asked, parts)
        uneven = len(sizes) > 1 or length % size or (given.get("start") or 0) % size
        if uneven or given.get("step", 1) != 1:
            if not kept:
                follower.coupled.keep(layer)
        else:
            for start in range(size, length, size):
                follower.coupled.couple(layer.narrow(dim, 0, size), layer.narrow(dim, start, size))
    moving(follower, func, given, result)


def gating(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """The second half of the channels are the gates of the first."""
    value, dim = given["self"], given.get("dim", -1) % given["self"].dim()
    half = result.shape[dim]
    halves = [
        (layer.narrow(dim, 0, half), layer.narrow(dim, half, half))
        for layer in follower.layers(value)
    ]
    for one, other in halves:
        follower.coupled.couple(one, other)
    follower.give(result, [one for one, _ in halves])


def striding(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Only how one row of values lies in memory changes, as after pooling to one pixel."""
    if sum(size > 1 for size in given["size"]) > 1:
        raise LookupError


def expanding(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Numbers are repeated as the values are; that dimensions are repeated is noted too."""
    (value,) = tensors_in(given)
    found = [layer.expand(result.shape) for layer in follower.layers(value)]
    lacking = result.dim() - value.dim()
    for dim, size in enumerate(result.shape):
        if size > 1 and (dim < lacking or value.shape[dim - lacking] == 1):
            found.append(along(follower.coupled.made(size), dim, result.shape))
    follower.give(result, found)


def shaping(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Where a dimension is split in several, one of them may shrink: the heads, or the last."""
    value = tensors_in(given)[0]
    found = []
    for layer in follower.layers(value):
        shaped = compressed(layer.reshape(result.shape))
        if len(varying(shaped)) > max(1, len(varying(layer))):
            shaped = follower.heads.split(shaped, follower.step)
        found.append(shaped)
    follower.give(result, follower.heads.chosen(found))


def joining(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Values that are joined along a dimension that numbers vary along keep their own."""
    values, dim = given["tensors"], given.get("dim", 0) % result.dim()
    values = [value for value in values if value.dim() == result.dim()]
    kinds = {dims for value in values for layer in follower.layers(value)
             if (dims := varying(layer))}  # fmt: skip
    found = []
    for dims in sorted(kinds):
        parts = [_of_dims(follower, value, dims) for value in values]
        if dim in dims:
            found.append(compressed(torch.cat(parts, dim)))
            continue
        first = parts[0].narrow(dim, 0, 1)
        for part in parts[1:]:
            follower.coupled.couple(first, part.narrow(dim, 0, 1))
        found.append(first.expand(result.shape))
    follower.give(result, found)


def _of_dims(follower: Follower, value: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the layer of a value that varies along some dimensions; what has none stays."""
    for layer in follower.layers(value):
        if varying(layer) == dims:
            return layer
    return torch.full((), STAYS).expand(value.shape)


def stacking(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Values that are stacked meet element by element."""
    values, dim = given["tensors"], given.get("dim", 0) % result.dim()
    layers = follower.merged(values, values[0].shape)
    follower.give(result, [layer.unsqueeze(dim).expand(result.shape) for layer in layers])


def spatial(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """Channels stay what they are; the last two dimensions are another image."""
    (value,) = tensors_in(given)
    out = result[0] if isinstance(result, tuple) else result
    found = []
    for layer in follower.layers(value):
        if set(varying(layer)) & {value.dim() - 1, value.dim() - 2}:
            follower.coupled.keep(layer)
        else:
            found.append(layer[..., :1, :1].expand(out.shape))
    follower.give(out, found)


def padding(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """What is added stays, and so what it meets later."""
    value, pads = given["self"], given["pad"]
    found = []
    for layer in follower.layers(value):
        padded = {value.dim() - 1 - n // 2 for n, amount in enumerate(pads) if amount}
        dims = varying(layer)
        if set(dims) & padded:
            found.append(compressed(aten.constant_pad_nd(layer, pads, STAYS)))
        else:
            origin = tuple(
                slice(None) if dim in dims else slice(0, 1) for dim in range(value.dim())
            )
            found.append(layer[origin].expand(result.shape))
    follower.give(result, found)


def batch_norm(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """Every channel is normalised by itself, with four numbers of its own."""
    value = given["input"]
    names = ("weight", "bias", "running_mean", "running_var")
    shape = tuple(value.shape)
    vectors = [given.get(name) for name in names]
    training = given.get("training", False) or given.get("running_mean") is None
    own = [vector for vector in vectors if isinstance(vector, Tensor)]
    layers = follower.layers(value)
    channels = [layer for layer in layers if varying(layer) == (1,)]
    for layer in layers:
        if varying(layer) != (1,) and (training or 1 in varying(layer)):
            follower.coupled.keep(layer)  # it is normalised over
    for vector in own:
        for layer in follower.layers(vector):
            if channels:
                follower.coupled.couple(channels[0], along(line(layer, 0), 1, shape))
            else:
                follower.coupled.keep(layer)
    follower.give(result[0] if isinstance(result, tuple | list) else result, layers)


def reducing(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """What is reduced over must stay, unless zeros change nothing or nobody reads it."""
    value = given["self"] if "self" in given else given["input"]
    dims = given.get("dim")
    every = range(value.dim())
    over = {dim % value.dim() for dim in ([dims] if isinstance(dims, int) else dims or every)}
    keepdim = bool(given.get("keepdim", False))
    found, stays = [], []
    for layer in follower.layers(value):
        own = set(varying(layer))
        if not own & over:
            where = tuple(slice(0, 1) if d in over else slice(None) for d in every)
            left = layer[where]
            if not keepdim:
                left = left.reshape([n for d, n in enumerate(left.shape) if d not in over])
            found.append(left)
        elif not (own <= over and _name(func) in SUMS.split()):
            stays.append(layer)
    for each in tensors_in(result):
        follower.give(each, found)
        follower.owe(each, stays)


def softmax(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """What competes leaves together."""
    value = given["self"]
    dim = given["dim"] % value.dim()
    for layer in follower.layers(value):
        if dim in varying(layer):
            follower.coupled.couple(layer.narrow(dim, 0, 1), layer)
    follower.give(result, follower.layers(value))


def picking(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Entries are picked along one dimension; what decides that dimension stays."""
    value, (dim, index) = given["self"], _picked(given)
    if index is None:
        follower.keep(value)
        return
    found = []
    for layer in follower.layers(value):
        if dim in varying(layer):
            follower.coupled.keep(layer)
            continue
        left = layer.narrow(dim, 0, 1)
        shape = (*left.shape[:dim], *[1] * index.dim(), *left.shape[dim + 1 :])
        found.append(left.reshape(shape).expand(result.shape))
    follower.give(result, found)


def _picked(given: dict[str, Any]) -> tuple[int, Tensor | None]:
    """Return the dimension that is indexed, and by what; None if several are."""
    if "indices" not in given:
        return given["dim"] % given["self"].dim(), given["index"]
    indices = [(n, index) for n, index in enumerate(given["indices"]) if index is not None]
    return indices[0] if len(indices) == 1 and indices[0][1].dtype != torch.bool else (0, None)


def embedding(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Rows of a table are looked up."""
    found = []
    for layer in follower.layers(given["weight"]):
        if varying(layer) == (1,):
            found.append(along(line(layer, 1), result.dim() - 1, result.shape))
        else:
            follower.coupled.keep(layer)
    follower.give(result, found)


def unfolding(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """Every channel becomes as many as its window has positions."""
    value = given["self"]
    height, width = given["kernel_size"]
    found = []
    for layer in follower.layers(value):
        if varying(layer) == (1,):
            found.append(along(line(layer, 1).repeat_interleave(height * width), -2, result.shape))
        else:
            follower.coupled.keep(layer)
    follower.give(result, found)


def multiplying(follower: Follower, func: Any, given: dict[str, Any], result: Tensor) -> None:
    """See `contracted`."""
    one, other = (given[a if a in given else b] for a, b in (("mat1", "self"), ("mat2", "batch2")))
    if "batch1" in given:
        one = given["batch1"]
    layers = contracted(follower, one, other, result.shape)
    follower.give(result, layers)
    if "mat1" in given or "batch1" in given:  # something is added
        follower.give(result, follower.merged([result, given["self"]], result.shape))


def passing(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """Only the type of the values changes, or what they say of a shape."""
    value = tensors_in(given)[0]
    follower.give(result, [layer.expand(result.shape) for layer in follower.layers(value)])


def fresh(follower: Follower, func: Any, given: dict[str, Any], result: Any) -> None:
    """What is made anew has no numbers."""


_NAMED: dict[str, Rule] = {
    **dict.fromkeys(MOVING.split(), moving),
    **dict.fromkeys(PARTING.split(), parting),
    **dict.fromkeys(SHAPING.split(), shaping),
    **dict.fromkeys(SPATIAL.split(), spatial),
    **dict.fromkeys(BATCH_NORMS.split(), batch_norm),
    **dict.fromkeys(REDUCING.split(), reducing),
    **dict.fromkeys(SOFTMAX.split(), softmax),
    **dict.fromkeys(["index", "index_select"], picking),
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm"], multiplying),
    **dict.fromkeys(["_to_copy", "clone", "alias", "detach", "lift_fresh"], passing),
    **dict.fromkeys(MAKING.split(), fresh),
    **dict.fromkeys(UNTAGGED.split(), pointwise),
    "as_strided_": striding,
    "expand": expanding,
    "glu": gating,
    "cat": joining,
    "stack": stacking,
    "constant_pad_nd": padding,
    "embedding": embedding,
    "im2col": unfolding,
    "convolution": convolved,
}


@cache
def rule_of(func: Any) -> Rule | None:
    """Return the rule of an operation; None if nothing is known about it."""
    found = _NAMED.get(_name(func))
    return found or (pointwise if torch.Tag.pointwise in func.tags else None)


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")
