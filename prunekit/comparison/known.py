"""What determines a cell, weights and images included, and the key that is made of it."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ..adapters.answers import axes_of, default_kinds_of
from ..errors import DataError
from ..inputs.data import fingerprint
from ..inputs.subject import find_images, find_subject
from ..measuring.provenance import versions
from ..recovery.recipes import settings_of
from ..repairs.chain import chained
from ..shared import Shared
from .cell import Cell
from .grid import Grid


@dataclass(frozen=True)
class Known:
    """What is found out about an architecture before its cells are run.

    Attributes:
        weights: Digest of its weights; those of the first seed if they are random.
        data: Digest of the images.
        adapter: Where the adapter was defined, and a digest of its source.
        kinds: All kinds of axes that may shrink.
        default_kinds: Those that shrink by default.
        device: Sort of device it is on.
    """

    weights: str
    data: str
    adapter: str
    kinds: tuple[str, ...]
    default_kinds: tuple[str, ...]
    device: str


def find_out(grid: Grid, arch: str, shared: Shared) -> Known:
    """Build an architecture and open its data.

    Raises:
        PruneError: It cannot be built, or has no adapter or no data.
    """
    settings = grid.settings
    subject = find_subject(grid.source(arch, grid.seeds[0]), shared)
    images = find_images(subject, settings.data, settings.data_dir, shared)
    if images is None:
        raise DataError(
            f"{arch} has no images to be compared on; name some with --data, such as a folder with "
            "train and val in it."
        )
    images.tested()
    if images.calibration is None and grid.learns:
        raise DataError(
            f"{images.name} has no training images, which criteria, repairs or recipes of this "
            "comparison look at; add a train folder."
        )
    return Known(
        weights=weights_digest(subject.model),
        data=shared.once("fingerprint", images, lambda: fingerprint(images)),
        adapter=source_of(type(subject.adapter)),
        kinds=tuple(dict.fromkeys(spec.kind for spec in axes_of(subject.adapter, subject.model))),
        default_kinds=default_kinds_of(subject.adapter, subject.model),
        device=next(subject.model.parameters()).device.type,
    )


def determinants(cell: Cell, grid: Grid, known: Known) -> dict[str, Any]:
    """Return everything that the result of a cell depends on, as plain data."""
    criterion, repairs = grid.criterion_of(cell.criterion), chained(cell.repair)
    recipe = grid.recipe_of(cell.finetune)
    settings, informed = grid.settings, grid.is_informed(cell)
    return {
        **cell.to_json(),
        "seed": cell.seed if grid.is_seeded(cell) else None,
        "finetune": settings_of(recipe) if recipe else None,
        "floor": settings.floor,
        "multiple": settings.multiple,
        "steps": settings.steps,
        "schedule": settings.schedule if settings.steps > 1 else None,
        "calibration": settings.calibration if informed else None,
        "weights": known.weights,
        "data": known.data,
        "adapter": known.adapter,
        "plugins": [source_of(plugin.function) for plugin in (criterion, *repairs)],
        "device": known.device,
        "versions": versions() | ({"accelerate": version("accelerate")} if recipe else {}),
    }


def key_of(determined_by: dict[str, Any]) -> str:
    """Return a cell's key: a digest of everything it depends on."""
    text = json.dumps(determined_by, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def weights_digest(model: nn.Module) -> str:
    """Return a digest of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def source_of(plugin: Callable[..., Any] | type) -> str:
    """Return where a plug-in was defined, and a digest of the file: changed code is new code."""
    module = sys.modules[plugin.__module__]
    try:
        text = inspect.getsource(module)
    except (OSError, TypeError):  # typed into an interpreter
        text = inspect.getsource(plugin)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{plugin.__module__}:{plugin.__qualname__} {digest}"
