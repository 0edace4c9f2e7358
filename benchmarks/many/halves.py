"""What `reconstruct` is worth where only attention, or only the MLPs, may be trained.

    python benchmarks/many/halves.py [--out FILE]

The transformers of train.py, pruned by `kfac:loss=self` and refitted by `lstsq`, then
reconstructed: all weights of a block, those of attention and the norm before it, or those of the
MLP and the norm before it. Rows that are in benchmarks/results/halves.jsonl are not made again.
Writes benchmarks/results/halves.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from cells import CALIBRATION, FLOOR, MULTIPLE, bench, losses
from torch import Tensor
from train import NAMES

from prunekit import prune
from prunekit.errors import BudgetError
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import repair
from prunekit.repairs.given import Block

OUT = Path(__file__).parents[1] / "results" / "halves.jsonl"
RATIOS = (0.6, 0.8)
HALVES = {"attention": (".attn.", ".norm1."), "MLPs": (".mlp.", ".norm2.")}
RECONSTRUCT = REPAIRS.get("reconstruct").function


def only(block: Block, half: str) -> Mapping[str, Tensor]:
    """Reconstruct a block by what belongs to a half of it."""
    for name, parameter in block.module.named_parameters():
        parameter.requires_grad_(any(word in f".{name}" for word in HALVES[half]))
    if not any(parameter.requires_grad for parameter in block.module.parameters()):
        return {}
    return RECONSTRUCT(block)


@repair("attention_only", needs="blocks")
def attention_only(block: Block) -> Mapping[str, Tensor]:
    """Train attention alone."""
    return only(block, "attention")


@repair("mlp_only", needs="blocks")
def mlp_only(block: Block) -> Mapping[str, Tensor]:
    """Train the MLPs alone."""
    return only(block, "MLPs")


CHAINS = {
    "lstsq": "lstsq",
    "attention": "lstsq,attention_only",
    "MLPs": "lstsq,mlp_only",
    "both": "lstsq,reconstruct",
}

INTRODUCTION = """\
# What `reconstruct` is worth, by halves of a block

Small transformers (ViT and Swin, two sizes, two data sets), pruned by `kfac:loss=self` and refitted
by `lstsq` on 512 training images. Then blocks are trained towards what they returned: *attention*
with the norm before it, the *MLPs* with the norm before them, or *both* (`reconstruct`). What is
lost is the mean over the models where the budget is in reach, on test images."""


def versions() -> str:
    return "\n".join([
        "- commands: `python benchmarks/many/train.py`, `python benchmarks/many/halves.py`",
        "- seed: 0; device: cpu, one thread; floor 0.02, multiple 1",
        f"- versions: torch {torch.__version__}, timm {timm.__version__}",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in args.out.open()] if args.out.exists() else []
    done = {(row["model"], row["ratio"], row["trained"]) for row in rows}
    with args.out.open("a") as file:
        for model in (name for name in NAMES if name.startswith(("vit", "swin"))):
            for ratio in RATIOS:
                for trained in CHAINS:
                    if (model, ratio, trained) in done:
                        continue
                    row = tried(model, ratio, trained)
                    if row is not None:
                        rows.append(row)
                        print(json.dumps(row), file=file, flush=True)
    page = "\n\n".join([INTRODUCTION, versions(), table(rows)])
    args.out.with_suffix(".md").write_text(f"{page}\n")
    print(page)


def tried(model: str, ratio: float, trained: str) -> dict | None:
    """Prune and repair one model; None where so much is out of reach."""
    on = bench(model)
    try:
        result = prune(
            on.model,
            "kfac:loss=self",
            ratio,
            repair=CHAINS[trained],
            data=(on.calibration, on.judged),
            calibration=CALIBRATION,
            floor=FLOOR,
            multiple=MULTIPLE,
            evaluate=False,
            example_input=torch.zeros(1, *on.test.spec.example(0).shape[1:]),
            shared=on.shared,
        )
    except BudgetError:
        return None
    lost = losses(result.model, on.test, on, "test")
    seconds = round(sum(result.seconds.values()), 1)
    return {"model": model, "ratio": ratio, "trained": trained, **lost, "seconds": seconds}


def table(rows: list[dict]) -> str:
    """Return what is lost on average, as Markdown."""
    lines = ["| parameters | trained | points of test top-1 lost | divergence | models |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for ratio in RATIOS:
        for trained in CHAINS:
            own = [r for r in rows if (r["ratio"], r["trained"]) == (ratio, trained)]
            means = [np.mean([row[key] for row in own]) for key in ("lost", "divergence")]
            lines.append(
                f"| {ratio:.0%} | {trained} | {means[0]:.2f} | {means[1]:.4f} | {len(own)} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
