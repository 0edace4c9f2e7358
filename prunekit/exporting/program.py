"""The exported program that ONNX files and .pt2 files are made of."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map_only

from ..arguments import arguments
from ..errors import ExportError
from ..tracing.checkpointing import without_checkpointing
from ..tracing.running import reason
from .patience import at_most
from .source import Source

TRACED = 2  # images in the batch that is traced, since of one torch.export makes a special case
COUNT, SIDES = (0,), (2, 3)  # dimensions: the number of images; their height and width
# With height and width free, torch.export takes seconds for most models. It reasons about windows
# that are filled up, such as Swin's, for longer than anybody waits.
PATIENCE_S = 300


@dataclass(frozen=True)
class Program:
    """A model as torch.export sees it.

    Attributes:
        exported: What it made.
        dynamic: Whether it takes any number of images.
        why_not: If not, the reason.
    """

    exported: ExportedProgram
    dynamic: bool
    why_not: str = ""


def program_of(source: Source, *, any_size: bool = False) -> Program:
    """Export a model for any number of images, or if it does not work for any, for one.

    Args:
        source: The model; what is traced is a batch of its images.
        any_size: Leave height and width free too; then the number of images must be.

    Raises:
        ExportError: torch.export cannot follow the model.
    """
    if any_size:
        return Program(_of_any_size(source), True)
    why = "its inputs do not tell how many there are"
    if source.batches:
        try:
            return Program(_exported(source, TRACED, COUNT), True)
        except Exception as error:  # torch.export's errors share no class
            why = reason(error)
    try:
        return Program(_exported(source, 1, ()), False, why)
    except Exception as error:
        raise ExportError(
            f"torch.export cannot follow {type(source.model).__name__} ({reason(error)}); export "
            "it to hub-folder, or change its forward() so that torch.export.export(model, inputs) "
            "works."
        ) from error


def _of_any_size(source: Source) -> ExportedProgram:
    try:
        with at_most(PATIENCE_S):
            return _exported(source, TRACED, (*COUNT, *SIDES))
    except Exception as error:  # torch.export's errors share no class
        raise ExportError(
            f"torch.export cannot follow {type(source.model).__name__} with images of any size "
            f"({reason(error)}); leave dynamic_size out."
        ) from error


def _exported(source: Source, batch: int, free: Sequence[int]) -> ExportedProgram:
    """Trace a batch, some dimensions of whose tensors may have other sizes later."""
    model = source.model
    args, kwargs, _ = arguments(source.batch(batch))
    shapes: dict[str, Any] | None = None
    if free:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = tree_map_only(Tensor, lambda _: dict.fromkeys(free, Dim.DYNAMIC), dict(bound))
    with without_checkpointing(model), quietly():
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep to ourselves what torch and its exporters say about their own insides."""
    before, nowhere = logging.root.manager.disable, io.StringIO()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
