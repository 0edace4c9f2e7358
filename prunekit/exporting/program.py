"""The exported program that ONNX files and .pt2 files are made of."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from ..arguments import arguments
from ..errors import ExportError
from ..tracing.checkpointing import without_checkpointing
from ..tracing.running import reason
from .source import Source

TRACED = 2  # images in the batch that is traced, since of one torch.export makes a special case


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


def program_of(source: Source) -> Program:
    """Export a model for any number of images, or if it does not work for any, for one.

    Raises:
        ExportError: torch.export cannot follow the model.
    """
    why = "its inputs do not tell how many there are"
    if source.batches:
        try:
            return Program(_exported(source, TRACED, dynamic=True), True)
        except Exception as error:  # torch.export's errors share no class
            why = reason(error)
    try:
        return Program(_exported(source, 1, dynamic=False), False, why)
    except Exception as error:
        raise ExportError(
            f"torch.export cannot follow {type(source.model).__name__} ({reason(error)}); export "
            "it to hub-folder, or change its forward() so that torch.export.export(model, inputs) "
            "works."
        ) from error


def _exported(source: Source, batch: int, *, dynamic: bool) -> ExportedProgram:
    model = source.model
    args, kwargs, _ = arguments(source.batch(batch))
    shapes: dict[str, Any] | None = None
    if dynamic:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        shapes = dict(tree_map(_free, dict(bound)))
    with without_checkpointing(model), quietly():
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes)


def _free(leaf: object) -> dict[int, Any] | None:
    return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) else None


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
