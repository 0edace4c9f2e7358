"""A part of a model: what it is called with when the model runs, and an adapter for it there."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ..adapters.answers import seeing
from ..adapters.base import Adapter
from ..adapters.within import Within
from ..arguments import Call, Inputs, call, shown, tensors_of
from ..errors import AdapterError
from ..naming import some
from .copies import in_precision
from .running import reason


class _Reached(Exception):
    """The part is about to run; the rest of the model need not."""


def within(adapter: Adapter, part: str, model: nn.Module, inputs: Inputs) -> Within:
    """Let an adapter look at a part of a model, and return what it says in names of the whole.

    Args:
        adapter: Knows the part.
        part: The part's name.
        model: The whole.
        inputs: What the part is called with, see `inputs_of`.
    """
    return Within(seeing(adapter, model.get_submodule(part), inputs), part, inputs)


def part_of(model: nn.Module, part: str) -> nn.Module:
    """Return a module of a model by its name.

    Raises:
        AdapterError: There is none of that name.
    """
    try:
        return model.get_submodule(part)
    except AttributeError as error:
        names = [name for name, _ in model.named_modules() if name]
        close = difflib.get_close_matches(part, names, 1)
        children = [repr(name) for name, _ in model.named_children()]
        advice = f"Did you mean {close[0]!r}?" if close else f"There are {some(children)}."
        raise AdapterError(
            f"{type(model).__name__} has no part {part!r}; expected a name of named_modules(). "
            f"{advice}"
        ) from error


@torch.no_grad()
def inputs_of(part: str, model: nn.Module, example: Inputs) -> Call:
    """Run a model as far as one of its parts, and return what that is called with the first time.

    Args:
        part: A name among the model's modules.
        model: Left untouched; a copy is run, in evaluation mode and in float32.
        example: One batch of inputs for the whole model.

    Raises:
        AdapterError: There is no such part, the model does not run on the example, or it does not
            call the part.
    """
    part_of(model, part)
    copied, inputs = in_precision(model, example)
    seen: list[Call] = []
    _watch_(copied.get_submodule(part), seen)
    try:
        call(copied, inputs)
    except _Reached:
        return seen[0]
    except Exception as error:  # of the model's own code
        raise AdapterError(
            f"{type(model).__name__} does not run on {shown(example)} ({reason(error)}); pass an "
            "example_input that fits."
        ) from error
    raise AdapterError(
        f"{type(model).__name__} calls neither its part {part!r} nor a method of it, so nobody "
        "knows what it is fed. Name a part that the forward pass calls."
    )


def _watch_(module: nn.Module, seen: list[Call]) -> None:
    """Let a module note how it is called the first time, itself or one of its methods, and stop."""

    def stop(args: tuple[Any, ...], kwargs: dict[str, Any], method: str) -> None:
        seen.append(Call(args, kwargs, method))
        raise _Reached

    def watched(method: str) -> Callable[..., Any]:
        own = getattr(module, method)

        def instead(*args: Any, **kwargs: Any) -> Any:
            if tensors_of((args, kwargs)):  # others ask for sizes and the like
                stop(args, kwargs, method)
            return own(*args, **kwargs)

        return instead

    for method in _methods(type(module)):
        setattr(module, method, watched(method))
    module.register_forward_pre_hook(
        lambda _, args, kwargs: stop(args, kwargs, "__call__"), with_kwargs=True
    )


def _methods(kind: type[nn.Module]) -> set[str]:
    """Return the names of the public methods that a class adds to those of every module."""
    bases = kind.__mro__[: kind.__mro__.index(nn.Module)]
    own = {name: value for base in bases for name, value in vars(base).items()}
    return {
        name
        for name, value in own.items()
        if isinstance(value, FunctionType) and not name.startswith("_")
    }
