"""Train the models of the bench of many models: six shapes, two sizes, two data sets.

    python benchmarks/many/train.py [NAME ...] [--out DIR]

A name is SHAPE_SIZE_DATA, such as vit_small_digits; without any, all that are missing are trained.
Writes NAME.safetensors and NAME.json (its card) into DIR, by default the folder `many` of
prunekit's cache. A run that was cut off goes on from its last whole epoch. Nothing is chosen by
looking at test images.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import timm
import torch
from data import MEANS, splits
from safetensors.torch import load_file, save_file
from shapes import MODELS
from torch import nn

from prunekit.inputs.zoo import build_from
from prunekit.pruning.cache import folder_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from train_zoo import SHARED_RECIPE, build, top1, train

NAMES = [f"{model}_{data}" for data in MEANS for model in MODELS]
RECIPES = {
    "fashion": {"epochs": 8, "lr": 2e-3},
    "digits": {"epochs": 150, "lr": 2e-3, "ema_decay": 0.99, "batch_size": 64, "flips": False},
}
CONVOLVES = ("convnext", "resnet", "depthwise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--out", type=Path, help="instead of the cache")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out or folder_for("many")
    names = args.names or [name for name in NAMES if not (out / f"{name}.json").exists()]
    if len(names) > 1:  # each in a process of its own, for Accelerate keeps its first precision
        same = [sys.executable, __file__, "--out", str(out), "--seed", str(args.seed)]
        for name in names:
            subprocess.run([*same, name], check=True)
        return
    for name in names:
        started = time.time()
        card = trained(name, out, args.seed)
        print(f"{name}: {card['test_top1']} % after {time.time() - started:.0f} s", flush=True)


def trained(name: str, out: Path, seed: int) -> dict:
    """Train one model, write it, and return its card."""
    shape, _, data = name.rpartition("_")
    entry = MODELS[shape]
    convolves = shape.startswith(CONVOLVES)
    recipe = SHARED_RECIPE | RECIPES[data] | {"drop_path_rate": 0.05}
    recipe |= {"mixed_precision": "no", "channels_last": True} if convolves else {}
    mean, std = MEANS[data]
    card = {
        "name": name,
        "class": entry["class"],
        "args": entry["args"] | {"drop_path_rate": 0.05},
        "input_size": entry["input_size"],
        "mean": [mean],
        "std": [std],
    }
    model = build(card)
    images, test = splits(data, model)
    state = out / f".{name}.state"
    model = train(model, images, recipe, seed, state).half().float()
    card |= {
        "data": data,
        "recipe": recipe,
        "seed": seed,
        "params": sum(p.numel() for p in model.parameters()),
        "test_top1": round(top1(model, test), 2),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        out / f"{name}.safetensors",
    )
    (out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    shutil.rmtree(state)
    return card


def loaded(name: str, out: Path | None = None) -> tuple[nn.Module, dict]:
    """Return a trained model of the bench and its card."""
    place = (out or folder_for("many")) / f"{name}.json"
    card = json.loads(place.read_text())
    model = build_from(card)
    model.load_state_dict(load_file(place.with_suffix(".safetensors")))
    return model.eval(), card


if __name__ == "__main__":
    main()
