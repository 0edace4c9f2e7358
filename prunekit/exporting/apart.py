"""A fresh process, in which an exported model runs where prunekit is not."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..arguments import Inputs, tensors_of
from ..errors import ExportError

SCRIPTS = Path(__file__).parent / "fresh"
SHOWN = 300  # characters of what a process said before it failed


def in_fresh_process(script: str, model: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Run an exported model on batches, in a process that imports no prunekit.

    Args:
        script: A file in `fresh/`, which is told where the model is, where its inputs are, and
            where its outputs are to go.
        model: A file or a directory.
        batches: What it is fed.

    Returns:
        Its outputs for each batch.

    Raises:
        ExportError: It does not run; the message says why.
    """
    with tempfile.TemporaryDirectory() as place:
        fed, made = Path(place) / "fed.safetensors", Path(place) / "made.safetensors"
        save_file(_numbered([tensors_of(inputs) for inputs in batches]), fed)
        command = [sys.executable, "-I", str(SCRIPTS / script), str(model), str(fed), str(made)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or ["nothing was said"]
            raise ExportError(
                f"{model.name} does not run in a process of its own ({said[-1][:SHOWN]}); nothing "
                "was saved. Please report it, with the model."
            )
        found = load_file(made)
    return [
        [found[name] for name in sorted(found) if name.startswith(f"{n:03d}.")]
        for n in range(len(batches))
    ]


def _numbered(batches: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    return {
        f"{n:03d}.{k:03d}": tensor.contiguous().clone()
        for n, tensors in enumerate(batches)
        for k, tensor in enumerate(tensors)
    }
