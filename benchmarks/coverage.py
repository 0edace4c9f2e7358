"""Which architectures can be pruned exactly? Of timm and torchvision, one by one.

    python benchmarks/coverage.py [--names REGEX] [--one-per-module] [--rival] [--out DIR]

Every model has random weights and loses 30 % of its parameters, with the adapter and the axes that
`prune()` takes by itself. It must equal its masked self, load bit for bit, and train. Each runs in
a process of its own, with a limit of memory and of time; what is done is kept, so that the same
command goes on where it was cut off. Writes DIR/coverage.jsonl and DIR/coverage.md; with --rival,
torch-pruning's own pruner is tried, and DIR/coverage_rival.jsonl written for that page.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from covering import rival, worker
from covering.apart import apart
from covering.names import all_names, module_of
from covering.page import write_page

HERE = Path(__file__).parent
SMALL = HERE / "covering" / "one_per_module.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default="", help="only those that match")
    parser.add_argument("--one-per-module", action="store_true", help="a small one of each")
    parser.add_argument("--rival", action="store_true", help="torch-pruning's own pruner")
    parser.add_argument("--again", default="", help="outcomes to try again, such as refused,wrong")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    names = all_names(args.names)
    if args.one_per_module:
        names = firsts(names)
    path = args.out / ("coverage_rival.jsonl" if args.rival else "coverage.jsonl")
    tried = rival.tried if args.rival else worker.tried
    done = {name: found for name, found in read(path).items()
            if found["outcome"] not in args.again.split(",")}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(found) + "\n" for found in done.values()))
    missing = [name for name in names if name not in done]
    random.Random(args.seed).shuffle(missing)  # so that a part of the table stands for all of it
    with ThreadPoolExecutor(args.jobs) as pool, path.open("a") as file:
        for found in pool.map(lambda name: apart(tried, name, args.seed), missing):
            print(json.dumps(found), file=file, flush=True)
            said = f"{found['outcome']:9} {found['name']}  {found.get('why') or ''}"
            print(said[:160], flush=True)
            write_all(args)  # each time, for a run may be cut off
    write_all(args)


def write_all(args: argparse.Namespace) -> None:
    """Write the page of all that is known so far."""
    names = "coverage.jsonl", "coverage_rival.jsonl"
    ours, theirs = (list(read(args.out / name).values()) for name in names)
    write_page(args.out / "coverage.md", ours, theirs, args)


def firsts(names: Sequence[str]) -> list[str]:
    """Return one name of every module, one of its smallest; of new modules the shortest."""
    listed = SMALL.read_text().split()
    found = {module_of(name): name for name in listed if name in names}
    for name in sorted(names, key=lambda name: (len(name), name)):
        found.setdefault(module_of(name), name)
    return sorted(found.values())


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is known already, by name."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["name"]: found for found in map(json.loads, lines)}


if __name__ == "__main__":
    main()
