"""compiled: what torch.compile makes of models, once it has made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..arguments import Inputs, call
from ..errors import BudgetError
from ..tracing.running import reason


def check_compiles(device: torch.device) -> None:
    """Refuse to compile where nothing can be compiled, before anything that takes long.

    Raises:
        BudgetError: A function of one line cannot, say for want of a C++ compiler.
    """
    try:
        with torch.inference_mode():
            torch.compile(_line)(torch.ones(8, device=device))
    except Exception as error:  # of the compilers, each its own
        raise BudgetError(
            f"torch.compile does not work here ({reason(error)}); install a C++ compiler, such as "
            "g++, and for a GPU Triton, or leave compile out."
        ) from error
    finally:
        torch.compiler.reset()


def _line(x: Tensor) -> Tensor:
    return (x + 1).relu()


@contextmanager
def compiled(models: Sequence[nn.Module], inputs: Sequence[Inputs]) -> Iterator[list[nn.Module]]:
    """Yield models that are compiled for some inputs; what was compiled is forgotten afterwards.

    Each has run before, so that no pass that is timed compiles anything. Models of other sizes
    would be recompilations of what is not forgotten.

    Raises:
        BudgetError: One cannot be compiled.
    """
    try:
        yield [_ran(model, x) for model, x in zip(models, inputs, strict=True)]
    finally:
        torch.compiler.reset()


def _ran(model: nn.Module, inputs: Inputs) -> nn.Module:
    made = cast(nn.Module, torch.compile(model, dynamic=False))
    try:
        call(made, inputs)
    except Exception as error:  # of the compilers, or of the model
        if "memory" in str(error):
            raise
        raise BudgetError(
            f"torch.compile fails on {type(model).__name__} ({reason(error)}); leave compile out, "
            "or change the model so that it can be compiled."
        ) from error
    return made
