"""Damaged comparisons and training runs: refused in a sentence, or as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..outcome import Outcome, exit_code, judged
from ..scene import Scene
from ..strategies.damage import Edit, copy, inflict, same
from ..strategies.records import Store, Training

LIMITS: dict[str, Any] = {"seconds": 40.0, "memory": 2 << 30}
# What a report says of when, where and how long, which may differ.
PASSING = ("seconds", "origin", "when", "date", "command", "latency", "timing", "speed")


def examine_store(scene: Scene, case: Store) -> Outcome:
    """Damage a copy of a comparison, and write its report, or run its command again."""
    with scene.sandbox() as cwd:
        store, marker = copy(scene.store, cwd / "store"), cwd / "executed"
        before = _told(store)
        damaged = _inflict(case, store, marker)
        again = ["compare", "--report-only", "store"]
        ran = scene.run(scene.compare_line("store") if case.again else again, cwd, **LIMITS)
        if marker.exists():
            return Outcome("executed", "code in a store")
        outcome = judged(ran)
        taken = outcome.fine and exit_code(ran) == 0 and _told(store) != before
        # Of the grid itself there may be another one in the directory; cells are results.
        if taken and damaged and damaged.startswith("cells/"):
            return Outcome("silent wrong", f"another report from a damaged {_name(damaged)}")
        return outcome


def _inflict(case: Store, store: Path, marker: Path) -> str | None:
    """Damage a store; return which file, if one of those that a report is made from."""
    for name in ("report.csv", "report.html", "report.md", "figure.svg"):
        (store / name).unlink(missing_ok=True)
    for lock in (store / "locks").glob("*"):
        lock.unlink()
    reports = (store / "report.json").read_text()
    (store / "report.json").unlink()
    kept = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    damage = case.damage
    if isinstance(damage, Edit) and damage.file == "cell.json":
        (path,) = (store / "cells").glob("*/cell.json")
        inflict(
            Edit(str(path.relative_to(store)), damage.path, damage.value, damage.how), store, marker
        )
    else:
        inflict(damage, store, marker)
    (store / "report.json").write_text(reports)
    changed = [path for path, old in kept.items() if not same(path, old)]
    return str(changed[0].relative_to(store)) if changed else None


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _told(store: Path) -> Any:
    """Return what the report says of the cells."""
    path = store / "report.json"
    return _lasting(json.loads(path.read_text())) if path.is_file() else None


def _lasting(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _lasting(v) for k, v in data.items() if not any(p in k for p in PASSING)}
    return [_lasting(value) for value in data] if isinstance(data, list) else data


def examine_training(scene: Scene, case: Training) -> Outcome:
    """Damage a copy of a stopped run, and resume it."""
    expected = scene.trained["weights"]
    with scene.sandbox() as cwd:
        home, marker = copy(scene.training, cwd / "stopped"), cwd / "executed"
        inflict(case.damage, home / "out.training", marker)
        ran = scene.run(scene.resume_line("stopped"), cwd, **LIMITS)
        if marker.exists():
            return Outcome("executed", type(case.damage).__name__, repr(case.damage))
        outcome = judged(ran)
        if not outcome.fine or exit_code(ran) != 0:
            return outcome
        if (home / "out" / "model.safetensors").read_bytes() != expected:
            return Outcome("silent wrong", "resumed to other weights", ran.err[-300:])
        return outcome
