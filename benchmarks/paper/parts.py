"""What the parts share: their contract, the settings, cells on disk, and packed answers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prunekit.inputs import zoo
from prunekit.inputs.device import find_device
from prunekit.measuring.provenance import device_name, versions

Correct = NDArray[np.bool_]
Plain = dict[str, Any]  # what JSON can hold


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Attributes:
        models: Architectures, the zoo's unless given.
        weights: For `prune`: one for all models, or one for each.
        data: A named data set or an image folder; None for the zoo's own.
        data_dir: Where the full Fashion-MNIST lies.
        out: Where JSON, figures and the report go.
        seed: Of everything random.
        device: `auto`, `cpu` or `cuda`.
        recipe: Of fine-tuning; None leaves it out.
        changes: Settings of the recipe to replace, by name.
        repeats: With how many seeds to fine-tune, from `seed` on.
        workers: Processes that prepare training images.
    """

    models: tuple[str, ...]
    out: Path
    weights: tuple[str, ...] = ("auto",)
    data: str | None = None
    data_dir: Path | None = None
    seed: int = 0
    device: str = "auto"
    recipe: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    repeats: int = 1
    workers: int = 0

    @property
    def of_zoo(self) -> bool:
        """Whether all models are the zoo's."""
        return all(name in zoo.names() for name in self.models)

    def of(self, model: str) -> Plain:
        """Return what `prune` has to know of a model: its name, weights, data, seed and device."""
        weights = dict(zip(self.models, self.weights, strict=False)).get(model, self.weights[0])
        data_dir = str(self.data_dir) if self.data_dir else None
        own = {"model": model, "weights": weights, "data": self.data, "data_dir": data_dir}
        return {**own, "seed": self.seed, "device": self.device}


@dataclass(frozen=True)
class Part:
    """One part of the report.

    Attributes:
        name: Also that of its JSON file.
        title: Its heading.
        run: Computes plain data; may write figures to `settings.out`.
        page: Turns these into Markdown, without a heading of its own; computes nothing.
    """

    name: str
    title: str
    run: Callable[[Settings], Plain]
    page: Callable[[Plain], str]


class Cells:
    """Figures that took long, a line of JSON each, so that a part can be stopped and go on.

    They are known by everything that determines them. A line that was cut off is computed again.
    """

    def __init__(self, settings: Settings, part: str):
        self.path = settings.out / "cells" / f"{part}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text("utf-8") if self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_atomically(self.path, whole)
        lines = [json.loads(line) for line in whole.splitlines()]
        self._found = {_key(line["cell"]): line["found"] for line in lines}

    def once(self, cell: Plain, make: Callable[[], Plain]) -> Plain:
        """Return what was found for an equal cell before, or make it and keep it.

        Args:
            cell: Everything that determines it.
            make: Makes it.
        """
        key = _key(cell)
        if key not in self._found:
            self._found[key] = make()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"cell": cell, "found": self._found[key]}) + "\n")
        return self._found[key]

    def place(self, cell: Plain) -> Path:
        """Return a directory of a cell's own, for what it needs while it is being made."""
        digest = hashlib.sha256(_key(cell).encode()).hexdigest()
        return self.path.with_suffix("") / digest[:12]


def is_swin(model: str) -> bool:
    """Whether a model is a Swin Transformer, which the paper is about."""
    return model.startswith("swin_")


def pack(correct: Any) -> str:
    """Return whether each image was classified correctly, (images,) bool, as text.

    Example:
        >>> unpack(pack(np.array([True, False, True])), 3).tolist()
        [True, False, True]
    """
    bits = np.packbits(np.asarray(correct, dtype=np.bool_))
    return base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode("ascii")


def unpack(text: str, images: int) -> Correct:
    """Return what was packed, (images,) bool."""
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8)
    return np.unpackbits(bits, count=images).astype(np.bool_)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = True
) -> str:
    """Return a Markdown table; if of numbers, all columns but the first are aligned to the right.

    Example:
        >>> print(table(("model", "top-1"), [("swin_t", 81.16)]))
        | model | top-1 |
        |---|---:|
        | swin_t | 81.16 |
    """
    ruler = "|".join(["---"] + ["---:" if numbers else "---"] * (len(headings) - 1))
    lines = [" | ".join(map(str, row)) for row in (headings, *rows)]
    return "\n".join([f"| {lines[0]} |", f"|{ruler}|", *(f"| {line} |" for line in lines[1:])])


def write(settings: Settings, part: Part, data: Plain) -> None:
    """Keep a part's data, with what its figures must travel with."""
    made = {
        "command": f"python {' '.join(sys.argv)}",
        "seed": settings.seed,
        "device": device_name(find_device(settings.device)),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    settings.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"part": part.name, "made": made, "data": data}, indent=1)
    write_atomically(settings.out / f"{part.name}.json", text + "\n")


def read(out: Path, name: str) -> Plain | None:
    """Return what was kept of a part; None if it was not run."""
    path = out / f"{name}.json"
    if not path.is_file():
        return None
    found: Plain = json.loads(path.read_text("utf-8"))
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _key(cell: Plain) -> str:
    return json.dumps(cell, sort_keys=True)
