"""A tree of plain data and tensors, as JSON and safetensors: what a pickle would hold, no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Plain = None | bool | int | float | str


def pack(tree: object) -> tuple[Any, dict[str, Tensor]]:
    """Take a tree apart.

    Args:
        tree: Dictionaries, lists and tuples of numbers, strings, None, types of
            tensors and tensors.

    Returns:
        The tree as JSON knows it, and its tensors, copied to the CPU, by the names it has for them.

    Raises:
        TypeError: There is something else in it.

    Example:
        >>> plain, tensors = pack({0: (1.5, torch.ones(2))})
        >>> plain, tensors
        ({'dict': [[0, {'tuple': [1.5, {'tensor': '0'}]}]]}, {'0': tensor([1., 1.])})
        >>> unpack(plain, tensors)
        {0: (1.5, tensor([1., 1.]))}
    """
    tensors: dict[str, Tensor] = {}
    return _packed(tree, tensors), tensors


def unpack(plain: object, tensors: Mapping[str, Tensor]) -> Any:
    """Put a tree together again.

    Raises:
        ValueError: It is not one that was taken apart, or a tensor is missing.
    """
    if isinstance(plain, list):
        return [unpack(entry, tensors) for entry in plain]
    if not isinstance(plain, dict):
        return plain
    match plain:
        case {"tensor": str(name), **rest} if not rest and name in tensors:
            return tensors[name]
        case {"tuple": list(entries), **rest} if not rest:
            return tuple(unpack(entry, tensors) for entry in entries)
        case {"float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
        case {"dtype": str(name), **rest} if not rest and isinstance(_dtype(name), torch.dtype):
            return _dtype(name)
        case {"dict": list(pairs), **rest} if not rest and all(map(_is_pair, pairs)):
            return {key: unpack(value, tensors) for key, value in pairs}
    raise ValueError(f"no part of a checkpoint: {sorted(plain)[:3]}")


def _packed(tree: object, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        # A copy of its own: no two tensors of a file may share memory, as tied weights do.
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": str(tree)}
    if isinstance(tree, Plain):
        return tree
    if isinstance(tree, torch.dtype):
        return {"dtype": str(tree).removeprefix("torch.")}
    if isinstance(tree, list):
        return [_packed(entry, tensors) for entry in tree]
    if isinstance(tree, tuple):
        return {"tuple": [_packed(entry, tensors) for entry in tree]}
    if isinstance(tree, Mapping) and all(isinstance(key, Plain) for key in tree):
        return {"dict": [[key, _packed(value, tensors)] for key, value in tree.items()]}
    raise TypeError(f"{type(tree).__name__} is neither plain data nor a tensor")


def _dtype(name: str) -> object:
    return getattr(torch, name, None)


def _is_pair(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], Plain)
