"""A command line ends with an exit code, one sentence if it is wrong, and nothing left behind."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from ..outcome import Outcome, exit_code, judged
from ..sandbox import Ran, snapshot
from ..scene import Scene, furnish
from ..strategies.command_lines import IMAGES, Line

SAVED = {"model.safetensors", "plan.json", "report.json"}
LATE = 0.7  # of the time of a whole run

# What no value of an option can be, wherever it is given.
RANGES: dict[str, Callable[[float], bool]] = {
    "--ratio": lambda v: 0 < v < 1,
    "--floor": lambda v: 0 <= v <= 1,
    "--multiple": lambda v: v >= 1,
    "--steps": lambda v: v >= 1,
    "--calibration": lambda v: v >= 1,
    "--finetune": lambda v: v >= 1,
    "--workers": lambda v: v >= 0,
    "--checkpoint-minutes": lambda v: v >= 0,
    "--cpus": lambda v: v > 0,
    "--gpus": lambda v: v >= 0,
    "--lr": lambda v: 0 < v < math.inf,
}


def examine(scene: Scene, line: Line) -> Outcome:
    """Run a command line among things it may stumble over."""
    words = [str(scene.images).join(word.split(IMAGES)) for word in line.words]
    with scene.sandbox() as cwd:
        furnish(scene, cwd)
        before = snapshot(cwd.parent)
        ran = scene.run(words, cwd, stream=line.stream)
        after = snapshot(cwd.parent)
        if line.stream == "full":
            return _full(ran)
        outcome = judged(ran)
        if not outcome.fine:
            return outcome
        code = exit_code(ran)
        if code == 2:
            return _refused(scene, words, ran, before, after) or outcome
        return _done(words, cwd, before, after) if code == 0 else outcome


def _full(ran: Ran) -> Outcome:
    """Judge a command whose output nobody could read."""
    if ran.raised is None and ran.value == 0:
        return Outcome("exit code", "0, though its output could not be written")
    if ran.raised and ran.raised.type == "OSError":
        return Outcome("traceback", "OSError, full standard output", ran.raised.message)
    return judged(ran)


def _refused(
    scene: Scene,
    words: list[str],
    ran: Ran,
    before: dict[str, tuple[int, ...]],
    after: dict[str, tuple[int, ...]],
) -> Outcome | None:
    changed = _changed(before, after)
    # A training run that went wrong on its way may keep what it has.
    kept = "loss" in ran.err and all(".training" in name for name in changed)
    if changed and not kept:
        names = ", ".join(changed[:4])
        return Outcome("leftovers", f"{words[0]}", f"{names} after: {ran.err.strip()[-200:]}")
    # Training may fail late for good reasons.
    trains = words[0] == "finetune" or any(word.startswith("--finetune") for word in words)
    if not trains and ran.seconds > LATE * scene.run_seconds:
        return Outcome("late", words[0], f"{ran.seconds:.1f} s, then: {ran.err.strip()[-200:]}")
    return None


def _done(
    words: list[str],
    cwd: Path,
    before: dict[str, tuple[int, ...]],
    after: dict[str, tuple[int, ...]],
) -> Outcome:
    """Judge a command that claims to have succeeded."""
    nonsense = _nonsense(words)
    if nonsense:
        return Outcome(
            "accepted", f"{words[0]} {nonsense}", next(w for w in words if nonsense in w)
        )
    out = _out(words, cwd)
    replaced = _relative(out, cwd) if out and words[0] in ("run", "finetune") else None
    lost = [
        name
        for name in _changed(before, after)
        if name in before and not (replaced and name.startswith(replaced))
    ]
    if lost:
        return Outcome("destroyed", words[0], ", ".join(lost[:4]))
    if out and words[0] in ("run", "finetune"):
        return _saved(out)
    return Outcome("ok")


def _saved(out: Path) -> Outcome:
    if not out.is_dir() or not {path.name for path in out.iterdir()} >= SAVED:
        return Outcome("silent wrong", "nothing was saved in --out", str(out))
    weights = load_file(out / "model.safetensors").values()
    if not all(bool(w.isfinite().all()) for w in weights if w.is_floating_point()):
        return Outcome("silent wrong", "weights that are not finite were saved")
    return Outcome("ok")


def _nonsense(words: list[str]) -> str | None:
    """Return the option that cannot be meant, if there is one."""
    if any(word.startswith("--report-only") for word in words):
        return None
    given = {}
    for name, _, value in (word.partition("=") for word in words):
        given[name] = value
    for name, right in RANGES.items():
        for value in given.get(name, "").split(","):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                continue
            if math.isnan(number) or not right(number):
                return name
    return None


def _out(words: list[str], cwd: Path) -> Path | None:
    given = [word.partition("=")[2] for word in words if word.startswith("--out=")]
    return cwd / given[-1].replace("~/", f"{cwd}/") if given else None


def _relative(path: Path, cwd: Path) -> str:
    """Return a path as snapshots name it, links resolved."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(cwd.parent))


def _changed(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
