"""torch-export: a .pt2 file, which torch loads without prunekit and without timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import Inputs, arguments, shown
from ..errors import ExportError
from ..tracing.running import reason
from .apart import in_fresh_process
from .program import Program, quietly
from .source import Source

FILE = "model.pt2"


def write(program: Program, place: Path) -> None:
    """Write a program to a directory."""
    with quietly():
        torch.export.save(program.exported, place / FILE)


def check_takes(program: Program, source: Source) -> None:
    """Refuse a program that does not take the model's own images, but only larger ones.

    Where a layer is left with a single pixel, torch.export makes a special case of it.

    Raises:
        ExportError: It does not take them.
    """
    args, kwargs, _ = arguments(source.batch(1))
    try:
        with torch.inference_mode(), quietly():
            program.exported.module()(*args, **kwargs)
    except Exception as error:  # torch's errors share no class
        raise ExportError(
            f"The program that torch.export made takes images of other sizes, but not {shown(args)}"
            f", the model's own ({reason(error)}); export it to onnx, or leave dynamic_size out."
        ) from error


def run(place: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Load the file in a process that has neither prunekit nor timm, and run it on each batch."""
    return in_fresh_process("run_pt2.py", place / FILE, batches)
