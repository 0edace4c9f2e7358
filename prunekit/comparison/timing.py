"""Timing: how fast small models are, all of them measured in one go beside the dense one.

A latency is worth something only beside another of the same machine at the same time, while
cells may have been run anywhere, any time, beside anything. So cells are not timed; all models
are, one after the other, once the cells are there. Of models of one shape, one is timed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from ..cutting.shrink import shrunk
from ..inputs.device import find_device
from ..inputs.subject import find_subject
from ..measuring.latency import latencies
from ..measuring.provenance import device_name, versions
from ..planning.plan import Plan
from ..pruning.slices import traced
from ..shared import Shared
from .cell import Record, Timing
from .grid import Grid
from .store import Store

CLAIM = "timing"
KEPT_EVERY = 20  # models


def time_models(
    grid: Grid,
    records: Sequence[Record],
    store: Store,
    on_step: Callable[[str], None] = lambda step: None,
) -> None:
    """Time every shape of model that has not been timed on this machine; one process at a time.

    Args:
        grid: What the records are of.
        records: What came of the cells.
        store: Keeps the times.
        on_step: Called with how far it is.
    """
    with store.claim(CLAIM, wait=True):
        bench = _Clock(grid)
        held = store.read_timing()
        known: dict[str, Any] = dict(held["shapes"]) if held.get("where") == bench.where() else {}
        wanted = {shape_of(record): record for record in records if record.report is not None}
        missing = {shape: record for shape, record in wanted.items() if shape not in known}
        for number, (shape, record) in enumerate(missing.items(), start=1):
            on_step(f"time models: {number} of {len(missing)}")
            known = {**known, shape: asdict(bench.time(record))}
            if number % KEPT_EVERY == 0 or number == len(missing):
                store.write_timing({"where": bench.where(), "shapes": known})


def with_timing(records: Sequence[Record], store: Store) -> list[Record]:
    """Return the records with what is known of their models' speed."""
    shapes = store.read_timing()["shapes"]
    found = []
    for record in records:
        timing = shapes.get(shape_of(record)) if record.report is not None else None
        found.append(replace(record, timing=Timing(**timing)) if timing else record)
    return found


def shape_of(record: Record) -> str:
    """Return a digest of all that the speed of a small model depends on: not on its weights."""
    assert record.report is not None, "only a run that went well has a model"
    counts = {name: len(slices) for name, slices in record.kept.items()}
    what = (record.cell.arch, record.report["before"]["params"], counts)
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:20]


class _Clock:
    """Rebuilds small models from what they keep, and times them."""

    def __init__(self, grid: Grid):
        self.grid, self.shared = grid, Shared()

    def time(self, record: Record) -> Timing:
        assert record.report is not None
        cell = record.cell
        subject = find_subject(self.grid.source(cell.arch, cell.seed), self.shared)
        axes = traced(subject, cell.axes, (), (), self.shared)
        kept = {name: tuple(slices.tolist()) for name, slices in record.kept.items()}
        sizes = {axis.name: axis.size for axis in axes}
        plan = Plan(kept, sizes, "params", cell.ratio, record.report["got"])
        small = shrunk(subject.model, axes, plan, subject.adapter).eval()
        dense, pruned = latencies((subject.dense, small), subject.example)
        return Timing(
            dense={str(n): found.median for n, found in dense.items()},
            small={str(n): found.median for n, found in pruned.items()},
            low={str(n): found.low for n, found in pruned.items()},
            high={str(n): found.high for n, found in pruned.items()},
        )

    def where(self) -> dict[str, Any]:
        """Return what times depend on besides the model."""
        return {
            "device": device_name(find_device(self.grid.settings.device)),
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }


def timed_on(held: Mapping[str, Any]) -> str:
    """Say where models were timed, in words."""
    where = held.get("where")
    if not where:
        return "nowhere yet"
    return f"{where['device']}, threads {where.get('threads', 'unknown')}"
