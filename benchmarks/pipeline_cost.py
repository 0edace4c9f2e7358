"""What choosing, cutting and repairing costs on models of full size: passes and peak memory.

    python benchmarks/pipeline_cost.py [--models swin_b,vit_b] [--images 256] [--settings A+B,...]

Each model, with random weights, loses half its parameters by a criterion and is repaired, on images
of noise, in a process of its own with one thread. Time is the processor's, in forward passes of the
dense model over the same images, which other work on the machine does not change much. Memory is
the peak resident set over what the process holds before, less the small model's weights. Writes
benchmarks/results/pipeline_cost.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from page import facts, markdown
from resident import extra_bytes
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset

from prunekit import prune
from prunekit.inputs.architectures import build
from prunekit.inputs.feed import InputSpec
from prunekit.pruning.job import REPAIR_BATCH

OUT = Path(__file__).parent / "results" / "pipeline_cost.md"
SETTINGS = "magnitude+lstsq,obs+lstsq,kfac:loss=self+lstsq"
RATIO = 0.5
STEPS = ("score", "plan", "verify", "repair")


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.child:
        print(json.dumps(measured(args.child, args.settings, args.images)))
        return
    found = []
    for model in args.models.split(","):
        for setting in args.settings.split(","):
            found.append((model, setting, child(args, model, setting)))
            print(*found[-1], flush=True)
            write_page(found, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="swin_b,vit_b")
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(args: argparse.Namespace, model: str, setting: str) -> dict[str, Any]:
    """Measure in a process of its own, whose peak is nobody else's."""
    command = [sys.executable, __file__, "--child", model, "--settings", setting]
    command += ["--images", str(args.images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Noise(Dataset[Tensor]):
    """Images of noise, made when they are asked for."""

    def __init__(self, spec: InputSpec, count: int):
        self._spec, self._count = spec, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Tensor:
        return self._spec.example(number)[0]


def measured(name: str, setting: str, count: int) -> dict[str, Any]:
    """Return processor seconds of a forward pass, of everything and of its steps, and bytes."""
    dense = build(name, "random").model
    spec = InputSpec.of(dense)
    images = Noise(spec, count)
    forward = forward_seconds(dense, spec, count)
    criterion, _, repair = setting.partition("+")
    clock = Clock()
    results = []
    extra = extra_bytes(
        lambda: results.append(
            prune(
                dense,
                criterion,
                RATIO,
                repair=repair,
                data=images,
                calibration=count,
                evaluate=False,
                on_step=clock,
            )
        )
    )
    clock("end")
    (result,) = results
    small = sum(p.nbytes for p in result.model.parameters())
    layers = len(result.rounds[-1].repaired)
    return {
        "forward": forward, "total": sum(clock.seconds.values()), "steps": dict(clock.seconds),
        "memory": extra - small, "models": small + sum(p.nbytes for p in dense.parameters()),
        "layers": layers, "got": result.got,
    }  # fmt: skip


class Clock:
    """Adds up the processor's seconds from one step to the next."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._step, self._began = "start", time.process_time()

    def __call__(self, step: str) -> None:
        now = time.process_time()
        self.seconds[self._step] += now - self._began
        self._step, self._began = step, now


@torch.inference_mode()
def forward_seconds(model: torch.nn.Module, spec: InputSpec, count: int) -> float:
    """Return the processor's seconds of a forward pass over as many images, after a warm-up."""
    x = spec.example(0, REPAIR_BATCH)
    model.eval()(x)
    began = time.process_time()
    for _ in range(max(1, count // REPAIR_BATCH)):
        model(x)
    return time.process_time() - began


def write_page(found: list[tuple[str, str, dict[str, Any]]], args: argparse.Namespace) -> None:
    table = Table(
        "model", "criterion + repair", "forward passes", *STEPS, "one pass", "memory", "models"
    )
    for model, setting, cost in found:
        passes = {step: seconds / cost["forward"] for step, seconds in cost["steps"].items()}
        table.add_row(
            model,
            setting,
            f"{sum(passes.values()):.1f}",
            *(f"{passes.get(step, 0):.1f}" for step in STEPS),
            f"{cost['forward']:.0f} s",
            f"{cost['memory'] / 1e6:,.0f} MB",
            f"{cost['models'] / 1e6:,.0f} MB",
        )
    text = [
        "# What choosing, cutting and repairing costs on models of full size",
        "",
        f"Random weights, half of the parameters, {args.images} images of noise at 224 x 224. The",
        "time of everything, and of its longest steps, is counted in forward passes of the dense",
        "model over the same images: processor time of one thread, in the same process. Memory is",
        "the growth of the peak resident set, less the small model; beside it the bytes of both",
        "models' parameters.",
        "",
        facts(0, 1),
        "",
        markdown(table),
        "",
    ]
    OUT.write_text("\n".join(text))


if __name__ == "__main__":
    main()
