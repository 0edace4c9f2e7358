"""Prune the models of the bench of many models in every setting, and keep what came of it.

    python benchmarks/many/run.py [--settings REGEX] [--models REGEX] [--out FILE]

The models are those of train.py. Budgets: 60, 80 and 90 % of the parameters, and 70 % of the MACs,
where they are in reach. A setting is a criterion, a scope, a repair and a number of rounds.
Criteria and repairs see 512 training images; 2,048 others are what is chosen by, and test images
what is reported (page.py). Rows that are in FILE already are not made again.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from cells import Cell, Setting, cells, tried
from train import NAMES

from prunekit.criteria import CRITERIA
from prunekit.pruning.cache import folder_for

OUT = Path(__file__).parents[1] / "results" / "many.jsonl"
BUDGETS = [("params", 0.6), ("params", 0.8), ("params", 0.9), ("macs", 0.7)]
BEFORE = (
    "random", "magnitude", "lamp", "dimap", "dimap:plain=true", "fpgm", "taylor", "fisher",
    "wanda", "flap", "vbp", "influence",
)  # fmt: skip
KNOWING = ("obs", "osscar", "kfac", "kfac:loss=self")
ROUNDED, ROUNDS = ("dimap", "flap", "obs", "kfac", "kfac:loss=self"), 3  # without training between
OTHER_SCOPES = [
    (criterion, scope)
    for criterion in ("magnitude", "dimap", "taylor", "fisher", "flap", "vbp", "influence")
    for scope in ("axis", "kind", "model")
    if scope != CRITERIA.get(criterion).scope
]
FORMS = [
    *((f"dimap{form}", scope) for form in ("", ":plain=true") for scope in ("axis", "kind")),
    ("lamp", "kind"),
]
SETTINGS: list[Setting] = [
    *((criterion, None, "lstsq", ROUNDS) for criterion in ROUNDED),
    *((criterion, None, "lstsq", 1) for criterion in (*BEFORE, *KNOWING)),
    *((criterion, scope, "lstsq", 1) for criterion, scope in OTHER_SCOPES),
    *((criterion, None, "none", 1) for criterion in BEFORE),
    *((criterion, scope, "none", 1) for criterion, scope in FORMS),
    ("dimap:plain=true", "kind", "lstsq", 1),
    *((criterion, None, "lstsq,reconstruct", 1) for criterion in ("dimap", "influence", *KNOWING)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="", help="only those that match")
    parser.add_argument("--models", default="", help="only those that match")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    there = [name for name in NAMES if (folder_for("many") / f"{name}.json").exists()]
    models = [name for name in there if re.search(args.models, name)]
    rows = [json.loads(line) for line in args.out.open()] if args.out.exists() else []
    done = {Cell.of(row) for row in rows}
    with args.out.open("a") as file:
        for cell in cells(models, BUDGETS, SETTINGS):
            if not re.search(args.settings, cell.setting):
                continue
            if cell in done:
                continue
            found = tried(cell)
            print(json.dumps(found), file=file, flush=True)
            said = found.get("problem") or f"{found['test_lost']:.2f} points lost"
            print(
                f"{cell.model:24} {cell.by} {cell.ratio} {cell.setting:40} {said[:60]}", flush=True
            )


if __name__ == "__main__":
    main()
