"""A weights file is taken as it is meant, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from ..outcome import OK, Outcome, exit_code, judged
from ..scene import RUN, Scene
from ..strategies.weights import File, write

PRUNE = [*RUN, "--axes", "mlp", "--out", "out"]


def examine(scene: Scene, case: File) -> Outcome:
    """Write the file, and prune the model whose weights it holds."""
    with scene.sandbox() as cwd:
        path = write(case, scene.weights, cwd)
        if path is None:
            return OK
        line = [*PRUNE, "--data", str(scene.images), "--weights", path.name]
        line += ["--criterion", case.criterion, *scene.untimed]
        ran = scene.run(line, cwd, memory=2 << 30)
        outcome = judged(ran)
        if not outcome.fine:
            return outcome
        if exit_code(ran) == 2:
            if case.right:
                return Outcome("silent wrong", f"right weights refused: {case.how}", ran.err)
            return Outcome("leftovers", "run") if (cwd / "out").exists() else outcome
        if not case.right:
            return Outcome("silent wrong", f"wrong weights taken: {case.how}", ran.out[:300])
        return _same(scene, cwd / "out" / "model.safetensors", case)


def _same(scene: Scene, path: Path, case: File) -> Outcome:
    found, expected = load_file(path), scene.pruned_weights(case.criterion)
    alike = found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in found
    )
    return OK if alike else Outcome("silent wrong", f"other weights than meant: {case.how}")
