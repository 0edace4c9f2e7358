"""torch-export: a .pt2 file, which torch loads without prunekit and without timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import Inputs
from .apart import in_fresh_process
from .program import Program, quietly

FILE = "model.pt2"


def write(program: Program, place: Path) -> None:
    """Write a program to a directory."""
    with quietly():
        torch.export.save(program.exported, place / FILE)


def run(place: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Load the file in a process that has neither prunekit nor timm, and run it on each batch."""
    return in_fresh_process("run_pt2.py", place / FILE, batches)
