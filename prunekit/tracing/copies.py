"""Copies of a model's structure, with other tensors in place of its own."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..arguments import Inputs, mapped
from ..errors import AdapterError
from .checkpointing import switch_off_

M = TypeVar("M", bound=nn.Module)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # these work channel by channel

# Of these types, a copy is the thing itself.
ATOMS = frozenset(
    {type(None), bool, int, float, str, type, types.FunctionType, torch.dtype, torch.device}
)
CONTAINERS = (dict, OrderedDict, set)
# Hooks that set a weight anew before every forward pass, as torch did before parametrizations.
SETTERS = (WeightNorm, SpectralNorm, BasePruningMethod)
PROTOCOLS = ("__deepcopy__", "__getnewargs_ex__", "__getnewargs__")  # ways of one's own to copy


def copy_with(model: M, make: Callable[[str, Tensor], Tensor]) -> M:
    """Copy a model, with tensors of one's own making in place of its own.

    Args:
        model: The model; no parameter or buffer is copied that `make` does not copy.
        make: From a parameter's or buffer's name and value to the copy's value.

    Raises:
        AdapterError: A module holds something that cannot be copied, such as a lock, or a tensor
            that is the result of a computation.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        made = make(name, parameter.detach())
        memo[id(parameter)] = nn.Parameter(made, requires_grad=parameter.requires_grad)
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = make(name, buffer)
    return _module(model, memo, "")


def weightless(model: M, example: Inputs) -> tuple[M, Inputs]:
    """Copy a model and its input to the meta device, in float32 and without checkpointing.

    Running the copy takes no memory and little time, and tells all shapes.

    Raises:
        AdapterError: The model cannot be copied, see `copy_with`.
    """
    shell = copy_with(model, lambda _, tensor: _meta(tensor))
    for module in shell.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):  # neither a parameter nor a buffer, so it is still real
                vars(module)[name] = _meta(value)
    switch_off_(shell)
    return shell, mapped(_meta, example)


def in_precision(model: M, example: Inputs, dtype: torch.dtype = torch.float32) -> tuple[M, Inputs]:
    """Copy a model to be run, in evaluation mode, in one precision and without checkpointing.

    The copy shares what has that precision already, and the inputs are where it is.

    Raises:
        AdapterError: The model cannot be copied, see `copy_with`.
    """
    copied = copy_with(model, lambda _, tensor: _precise(tensor, dtype)).eval()
    switch_off_(copied)
    device = next(model.parameters()).device
    return copied, mapped(lambda tensor: _precise(tensor.to(device), dtype), example)


def _precise(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    made: Tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return made


def _meta(tensor: Tensor) -> Tensor:
    return _precise(torch.empty_like(tensor, device="meta"), torch.float32)


def _module(module: M, memo: dict[int, Any], path: str) -> M:
    """Do what `copy.deepcopy` does, in a tenth of the time: most of a module is empty dictionaries.

    Args:
        module: The module.
        memo: From the identity of what was copied already to its copy, as deepcopy keeps it.
        path: The module's name, for messages.
    """
    if id(module) in memo:
        return memo[id(module)]  # type: ignore[no-any-return]
    cls = type(module)
    pickled = cls.__reduce_ex__ is object.__reduce_ex__ and cls.__reduce__ is object.__reduce__
    own_way = not pickled or any(hasattr(cls, name) for name in PROTOCOLS)
    state = None if own_way else module.__getstate__()  # type: ignore[no-untyped-call]
    if not isinstance(state, dict):
        return _deep(module, memo, module, path, "")  # type: ignore[no-any-return]
    memo.setdefault(id(memo), []).append(state)  # or another object might get its identity
    made = memo[id(module)] = cls.__new__(cls)
    copied = {
        key: each if type(each) in ATOMS else _value(each, memo, module, path, key)
        for key, each in state.items()
    }
    made.__setstate__(copied)  # type: ignore[no-untyped-call]
    return made


def _value(value: Any, memo: dict[int, Any], module: nn.Module, path: str, name: str) -> Any:
    """Copy what `module` holds under a name, or a part of that."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor) and not value.is_leaf and _is_set_anew(module, name):
        return value.detach()
    if isinstance(value, nn.Module):
        return _module(value, memo, f"{path}.{name}".lstrip("."))
    if kind not in CONTAINERS or (value and kind is set):
        return _deep(value, memo, module, path, name)
    made: Any = kind()
    memo[id(value)] = made
    for key, each in value.items() if value else ():
        leaf = str(key) if name in ("_modules", "_parameters", "_buffers") else name
        made[_value(key, memo, module, path, name)] = _value(each, memo, module, path, leaf)
    return made


def _is_set_anew(module: nn.Module, name: str) -> bool:
    """Say whether a hook will set what `module` holds under a name before anybody reads it."""
    setters = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SETTERS)]
    return any(
        name in (getattr(s, "name", None), getattr(s, "_tensor_name", None)) for s in setters
    )


def _deep(value: Any, memo: dict[int, Any], module: nn.Module, path: str, name: str) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception as error:  # of whatever the module holds
        raise AdapterError(_uncopied(value, module, path, name, error)) from error


def _uncopied(value: Any, module: nn.Module, path: str, name: str, error: Exception) -> str:
    """Say what cannot be copied, and what to do about it."""
    whole = f"Module {path!r}" if path else "The model"
    which = f"{whole}, {type(module).__name__},"
    here = f"model.get_submodule({path!r})" if path else "model"
    reason = f"{type(error).__name__}: {error}".split("\n")[0]
    if not name:
        return f"{which} cannot be copied ({reason}); give it a __deepcopy__ that can."
    if isinstance(value, Tensor) and not value.is_leaf:
        return (
            f"{which} holds a tensor {name!r} that is the result of a computation, which cannot be "
            f"copied; set {here}.{name} = {here}.{name}.detach() first."
        )
    if name.endswith("_hooks"):
        return (
            f"{which} has a hook that cannot be copied ({reason}); remove it with the handle that "
            "registering it returned."
        )
    return (
        f"{which} holds {name!r}, {type(value).__name__}, which cannot be copied ({reason}); "
        f"delete it with `del {here}.{name}` and set it again afterwards."
    )
