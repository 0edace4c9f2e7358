"""Exported: what was written, how it was proved, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..files.stored import digest, write_json
from ..measuring.counting import Latency
from ..measuring.provenance import device_name, versions
from .proof import Agreement
from .source import Source

To = Literal["onnx", "torch-export", "timm", "hub-folder"]
Precision = Literal["fp32", "fp16"]
RECORD = "export.json"


@dataclass(frozen=True)
class Timing:
    """Times of a forward pass in onnxruntime, side by side.

    Attributes:
        dense: Of the large model, in float32.
        pruned: Of what was exported.
    """

    dense: Latency
    pruned: Latency


@dataclass(frozen=True)
class Exported:
    """What was written, and what was measured on it.

    Attributes:
        to: The target.
        directory: Where it is.
        files: Name to bytes.
        arch: The architecture's name.
        precision: `float16`, or the precision of the pruned model.
        quantized: `int8` or None.
        proofs: How far it is from the pruned model, for each batch and each size of images that was
            tried; before it was quantised.
        dynamic_size: Whether it takes images of any height and width.
        fixed_batch: Why it takes one image only; None if it takes any number, or it is not known.
        latency_ms: Batch size to times in onnxruntime; empty if not measured.
        top1: Percentage of test images `before` and `after` it was quantised; empty if not
            measured.
        origin: What it was made of, and by which versions.
        warnings: What is right but may surprise.
    """

    to: To
    directory: Path
    files: Mapping[str, int]
    arch: str
    precision: str
    quantized: str | None
    proofs: tuple[Agreement, ...]
    dynamic_size: bool = False
    fixed_batch: str | None = None
    latency_ms: Mapping[int, Timing] = field(default_factory=dict)
    top1: Mapping[str, float] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            **asdict(self),
            "directory": str(self.directory),
            "proofs": [proof.report() for proof in self.proofs],
        }

    def write(self, path: Path) -> None:
        """Write everything to a JSON file, with digests of the files beside it."""
        digests = {name: digest(path.parent / name) for name in self.files}
        plain = {key: value for key, value in self.report().items() if key != "directory"}
        write_json(path, {"format": 1, **plain, "sha256": digests})


def origin_of(source: Source) -> dict[str, str]:
    """Return what an exported model is made of, as plain text."""
    import torch

    report = source.report
    recipe = report["recipe"]
    return {
        "prunekit.arch": str(recipe["arch"]),
        "prunekit.weights": str(recipe["weights"]),
        "prunekit.criterion": str(recipe["criterion"]),
        "prunekit.removed": f"{report['got']:.4f} of {recipe['by']}",
        **({"prunekit.finetuned": _tuning(tuned)} if (tuned := report.get("finetune")) else {}),
        "prunekit.device": device_name(torch.device("cpu")),
        **{f"version.{name}": version for name, version in versions().items()},
    }


def _tuning(tuned: Mapping[str, Any]) -> str:
    return f"recipe {tuned['recipe']}, on {tuned['data']}"


def sizes_in(place: Path) -> dict[str, int]:
    """Return the bytes of every file that was written."""
    return {path.name: path.stat().st_size for path in sorted(place.iterdir())}


def is_export(place: Path) -> bool:
    """Whether a directory holds what an export wrote, and nothing else."""
    try:
        files = json.loads((place / RECORD).read_text("utf-8"))["files"]
        return {path.name for path in place.iterdir()} <= {RECORD, *files}
    except (OSError, ValueError, TypeError, KeyError):  # it is some other directory
        return False
