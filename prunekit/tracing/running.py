"""dry_run: what can be learnt from a forward pass without its arithmetic."""

from __future__ import annotations

import gc
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..arguments import Inputs, shown
from ..errors import AdapterError
from .copies import in_precision, weightless

T = TypeVar("T")


def dry_run(model: nn.Module, example: Inputs, run: Callable[[nn.Module, Inputs], T]) -> T:
    """Run a copy of a model that has shapes but no values.

    Some models need values to choose what they do; these are run in earnest, with a warning.

    Args:
        model: Left untouched.
        example: One batch of inputs.
        run: Does it, given the copy in evaluation mode and inputs for it; called again with real
            ones if it fails.

    Raises:
        AdapterError: The model cannot be copied, or does not run on such an input.
    """
    try:
        with without_collection():
            shell, inputs = weightless(model, example)
            return run(shell.eval(), inputs)
    except AdapterError:
        raise
    except Exception as error:  # of the model's own code
        without_values = error
    try:
        found = run(*in_precision(model, example))
    except AdapterError:
        raise
    except Exception as error:
        raise AdapterError(
            f"{type(model).__name__} does not run on {shown(example)} "
            f"({reason(error)}); choose another img_size or in_chans, "
            "or pass an example_input that fits."
        ) from error
    warnings.warn(
        f"{type(model).__name__} does not run without values ({reason(without_values)}), so "
        "prunekit runs it in earnest to look at it; the result is the same, but takes longer.",
        stacklevel=2,
    )
    return found


@contextmanager
def without_collection() -> Iterator[None]:
    """Keep the garbage collector from searching what is being built, all of which is in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def plainly() -> Iterator[None]:
    """Have attention computed by matrix products, without gradients, on every device alike."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def reason(error: BaseException) -> str:
    """Return an exception in a few words, and without colours for a terminal."""
    words = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    return textwrap.shorten(words, 120)
