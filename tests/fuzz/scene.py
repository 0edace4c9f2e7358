"""Scene: what cases need, made once: images, a saved model, a comparison, a training run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prunekit import finetune, load, prune
from prunekit.cli import main
from prunekit.errors import TrainingInterrupted

from .sandbox import Ran, in_child

ARCH = "vit_micro"
TRAINING = {"epochs": 3, "batch_size": 8}
RUN = ["run", "--arch", ARCH, "--criterion", "magnitude", "--calibration", "8"]
COMPARE = ["compare", "--arch", ARCH, "--criterion", "magnitude", "--calibration", "8"]


class Scene:
    """A directory with everything that cases start from; they work on copies."""

    def __init__(self, root: Path):
        self.root = root
        torch.set_num_threads(1)
        self.images = _draw_images(root / "images")
        # Latencies take longest, and no case is about them; older versions always measure them.
        self.untimed = [flag for flag in ("--no-timing",) if flag in _warm_up()]
        self._pruned: dict[str, dict[str, Tensor]] = {}

    @cached_property
    def artifact(self) -> Path:
        """A saved model, of the zoo and small."""
        options = {"data": str(self.images), "calibration": 8, "evaluate": True, "timed": False}
        prune(ARCH, "magnitude", 0.7, axes=("mlp", "head", "head_dim"), **options).save(
            self.root / "saved"
        )
        return self.root / "saved"

    @cached_property
    def masked(self) -> Path:
        """A saved model whose single weights are masked."""
        options = {"data": str(self.images), "calibration": 8, "evaluate": True, "timed": False}
        prune(ARCH, "magnitude", 0.7, granularity="weight", **options).save(self.root / "masked")
        return self.root / "masked"

    @cached_property
    def example(self) -> Tensor:
        """A batch of images for the saved models."""
        return torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    @cached_property
    def output(self) -> Tensor:
        """What the saved model makes of the example."""
        return run_model(load(self.artifact), self.example)

    @cached_property
    def masked_output(self) -> Tensor:
        """What the masked model makes of the example."""
        return run_model(load(self.masked), self.example)

    @cached_property
    def store(self) -> Path:
        """A comparison of one cell, finished."""
        out = self.root / "store"
        silent(self.compare_line(str(out)))
        return out

    def compare_line(self, out: str) -> list[str]:
        """Return the command that made the comparison."""
        return [*COMPARE, "--data", str(self.images), "--out", out]

    @cached_property
    def training(self) -> Path:
        """A directory with a training run that was stopped: `out.training`."""
        home = self.root / "stopped"
        shutil.copytree(self.artifact, home / "saved")
        epochs: list[Any] = []
        with suppress(TrainingInterrupted):
            finetune(
                home / "saved",
                home / "out",
                data=str(self.images),
                overrides=TRAINING,
                checkpoint_minutes=0.0,
                on_epoch=epochs.append,
                should_stop=lambda: bool(epochs),
            )
        assert (home / "out.training").is_dir(), "the run has not begun"
        assert not (home / "out").exists(), "the run was not stopped"
        return home

    def resume_line(self, home: str) -> list[str]:
        """Return the command that goes on with the stopped training run in a directory."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in TRAINING.items()]
        flags += ["--data", str(self.images)]
        return ["finetune", f"{home}/saved", "--out", f"{home}/out", "--resume", *flags]

    @cached_property
    def trained(self) -> dict[str, Any]:
        """What the stopped run ends with if it is resumed as it is."""
        with self.sandbox() as cwd:
            shutil.copytree(self.training, cwd / "stopped")
            ran = self.run(self.resume_line("stopped"), cwd)
            assert ran.value == 0, ran
            return {"weights": (cwd / "stopped/out/model.safetensors").read_bytes()}

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the model that is pruned, in float32."""
        model = prune(ARCH, "magnitude", 0.1, granularity="weight").model
        noise = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(tensor.shape, generator=noise) / max(1, tensor[0].numel()) ** 0.5
            for name, tensor in model.state_dict().items()
        }

    def pruned_weights(self, criterion: str) -> dict[str, Tensor]:
        """Return what is saved when those are pruned."""
        if criterion not in self._pruned:
            path = self.root / "weights.safetensors"
            save_file(self.weights, path)
            result = prune(ARCH, criterion, 0.5, axes=("mlp",), weights=str(path))
            self._pruned[criterion] = dict(result.model.state_dict())
        return self._pruned[criterion]

    @cached_property
    def run_seconds(self) -> float:
        """CPU time of a whole run, measuring included."""
        with self.sandbox() as cwd:
            ran = self.run([*RUN, "--data", str(self.images)], cwd)
        assert ran.value == 0, ran
        return ran.seconds

    @contextmanager
    def sandbox(self) -> Iterator[Path]:
        """Yield an empty directory to work in, two levels below one that is thrown away."""
        with tempfile.TemporaryDirectory(prefix="case-", dir=self.root) as home:
            cwd = Path(home) / "home" / "work"
            cwd.mkdir(parents=True)
            yield cwd

    def run(self, line: list[str], cwd: Path, **limits: Any) -> Ran:
        """Run a command line of prunekit."""
        return in_child(lambda: call(line), cwd, **limits)


def call(line: list[str]) -> int:
    """Run a command line of prunekit in this process."""
    sys.argv = ["prunekit", *line]
    return main(line)


@torch.inference_mode()
def run_model(model: nn.Module, example: Tensor) -> Tensor:
    """Return a model's output."""
    found: Tensor = model(example)
    return found


def silent(line: list[str]) -> str:
    """Run a command line that must succeed, and return what it prints."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(line)
    assert code == 0, err.getvalue()
    return out.getvalue()


def _warm_up() -> set[str]:
    """Import what commands import when they are first used; return the options of `run`."""
    told = StringIO()
    for line in (
        ["list"],
        ["run", "--help"],
        ["run", "--arch", "nothing"],
        ["compare", "--arch", "nothing"],
        ["finetune", "nothing"],
        ["check", "criterion", "magnitude"],
    ):
        try:
            with redirect_stdout(told), redirect_stderr(StringIO()):
                main(line)
        except SystemExit:
            pass
    import accelerate  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import timm.optim  # noqa: F401

    words = told.getvalue().replace(",", " ").replace("]", " ").replace("[", " ").split()
    return {word for word in words if word.startswith("--")}


def _draw_images(root: Path) -> Path:
    """Write ten classes of two training and one test image each."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 2), ("test", 1)):
        for label in range(10):
            place = root / split / str(label)
            place.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (28, 28), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    return root


def furnish(scene: Scene, cwd: Path) -> None:
    """Put things into a sandbox that a command line may stumble over."""
    shutil.copytree(scene.artifact, cwd / "saved")
    (cwd / "link").symlink_to("saved")
    for name in ("full", "empty"):
        (cwd / name).mkdir()
    (cwd / "full" / "thesis.tex").write_text("years of work")
    (cwd / "full" / "report.html").write_text("somebody's report")
    (cwd / "file.txt").write_text("a file")
    (cwd / "loop").symlink_to("loop")
    (cwd / "dangling").symlink_to("nowhere/at/all")
    (cwd / "good.toml").write_text("epochs = 1\nbatch_size = 8\n")
    (cwd / "grid.toml").write_text(f'arch = ["{ARCH}"]\nratio = [0.5]\n')
    (cwd / "latin.toml").write_bytes(b'arch = ["caf\xe9"]\n')
    (cwd / "nested.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    (cwd / "types.toml").write_text(json.dumps("x") + " = {y = [nan, -inf, 1e400]}\n")
    (cwd / "nul.toml").write_text('arch = "\\u0000"\ndata = "\\u0000"\n')
    (cwd / "bad.safetensors").write_bytes(b"\xff" * 64)
    (cwd / "bad.pth").write_bytes(b"PK\x03\x04 not a zip")
    for name in ("sparse.toml", "sparse.safetensors"):
        with (cwd / name).open("wb") as file:
            os.truncate(file.fileno(), 5 << 29)
