"""A damaged artifact is refused in a sentence, or does what it did before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from prunekit import load

from ..outcome import OK, Outcome, broken, exit_code, judged, traceback
from ..sandbox import Ran, in_child
from ..scene import Scene, run_model
from ..strategies.artifacts import Damaged
from ..strategies.damage import Edit, copy, inflict

LIMITS: dict[str, Any] = {"seconds": 30.0, "memory": 2 << 30}
WALKED = 200  # directories outside the sandbox that a look at one model may list


def examine(scene: Scene, case: Damaged) -> Outcome:
    """Damage a copy of an artifact, and use it."""
    source = scene.masked if case.masked else scene.artifact
    with scene.sandbox() as cwd:
        saved, marker = copy(source, cwd / "saved"), cwd / "executed"
        changed = inflict(case.damage, saved, marker)
        # Whoever renews the digests of a plan may change the model; a report may not.
        same = not (isinstance(case.damage, Edit) and case.damage.file == "plan.json")
        if case.action == "load":
            return _loaded(scene, case, cwd, same)
        ran = scene.run(_line(scene, case.action), cwd, **LIMITS)
        outcome = _suspicious(ran, marker) or judged(ran)
        if outcome.fine and exit_code(ran) == 0 and changed and not isinstance(case.damage, Edit):
            return Outcome("silent wrong", f"{case.action} takes damaged files", ran.out[-200:])
        return outcome


def _line(scene: Scene, action: str) -> list[str]:
    images = ["--data", str(scene.images)]
    return {
        "show": ["show", "saved"],
        "show --json": ["show", "saved", "--json"],
        "eval": ["eval", "saved"],
        "eval --data": ["eval", "saved", *images],
        "finetune": ["finetune", "saved", "--epochs", "1", "--batch-size", "8", *images],
    }[action]


def _suspicious(ran: Ran, marker: Path) -> Outcome | None:
    if marker.exists():
        return Outcome("executed", "code in a file")
    if ran.walked > WALKED:
        return Outcome("walked", "over 200 directories that the artifact names", str(ran.walked))
    return None


def _loaded(scene: Scene, case: Damaged, cwd: Path, same: bool) -> Outcome:
    expected = scene.masked_output if case.masked else scene.output

    def work() -> bool:
        return torch.equal(run_model(load(cwd / "saved"), scene.example), expected)

    ran = in_child(work, cwd, **LIMITS)
    wrong = _suspicious(ran, cwd / "executed") or broken(ran)
    if wrong:
        return wrong
    if ran.raised is None:
        wrong = Outcome("silent wrong", "load returns another model") if same else OK
        return OK if ran.value else wrong
    if not ran.raised.ours:
        return traceback(ran) or Outcome("traceback", str(ran.raised))
    if "\n" in ran.raised.message:
        return Outcome("words", "more than one line", ran.raised.message)
    return Outcome("refused", "", ran.raised.message)
