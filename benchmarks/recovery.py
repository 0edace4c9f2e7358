"""What recovery is worth: zoo x criteria x scopes x repairs x ratios, and a short fine-tune.

    python benchmarks/recovery.py cells [--models ...] [--epochs 0] [--seeds 0] ...
    python benchmarks/recovery.py page

`cells` prunes, repairs, trains for `--epochs` of the quick recipe, evaluates on all 10,000 test
images, and appends a line per cell to benchmarks/results/recovery.jsonl; cells that are there are
not computed again, so that it can be stopped at any time and run in several processes. `page`
turns the lines into benchmarks/results/recovery.md.

Nothing here is chosen by looking at the test images: every cell that was computed is shown.
"""

import argparse
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from recovery_page import scope_of, write_page

from prunekit import PruneError, prune
from prunekit.criteria import CRITERIA
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import batches, open_data
from prunekit.measuring.accuracy import accuracy
from prunekit.plugin import configured
from prunekit.recovery import recipes
from prunekit.repairs import REPAIRS

RESULTS = Path(__file__).parent / "results"
BATCH = 250


@dataclass(frozen=True)
class Cell:
    """Everything that determines one figure."""

    model: str
    criterion: str
    scope: str
    repair: str
    axes: str
    ratio: float
    seed: int
    epochs: int
    steps: int = 1


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.what == "page":
        write_page(RESULTS)
        return
    path = RESULTS / "recovery.jsonl"
    done = {Cell(**line["cell"]) for line in lines(path)}
    for model in args.models:
        bench = Bench(model, path)
        for cell in cells(args, model):
            if cell not in done:
                bench.run(cell)


def arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cells", "page"))
    parser.add_argument("--models", type=words, default=zoo.names())
    parser.add_argument("--criteria", type=words, default=CRITERIA.builtin_names())
    parser.add_argument("--scopes", type=words, default=words("axis,kind,model"), help="or own")
    parser.add_argument("--repairs", type=words, default=words("none,lstsq,bias"))
    parser.add_argument("--axes", type=words, default=words("default"), help="such as mlp+head_dim")
    parser.add_argument("--ratios", type=words, default=words("0.5,0.7,0.3"))
    parser.add_argument("--seeds", type=words, default=words("0"))
    parser.add_argument("--epochs", type=int, default=0, help="of the quick recipe")
    parser.add_argument("--steps", type=int, default=1, help="rounds, on a cubic schedule")
    return parser.parse_args()


def cells(args: argparse.Namespace, model: str) -> Iterator[Cell]:
    """Yield the grid of one model, so that its figures can be compared early."""
    for seed in map(int, args.seeds):
        for criterion in args.criteria:
            for axes in args.axes:
                for scope in args.scopes:
                    own = scope_of(criterion) if scope == "own" else scope
                    for ratio in map(float, args.ratios):
                        for repair in args.repairs:
                            rest = (axes, ratio, seed, args.epochs, args.steps)
                            yield Cell(model, criterion, own, repair, *rest)


class Bench:
    """One model, its test images, and the scores that cells share."""

    def __init__(self, name: str, path: Path):
        self.path, self.model = path, build(name).model
        self.images = open_data(zoo.DATA, self.model)
        self.dense = accuracy(self.model, batches(self.images.test, BATCH))[0]
        self.scores: dict[tuple[str, str, int], list[torch.Tensor]] = {}
        self.found: dict[tuple, float] = {}  # scopes often lead to the same plan

    def run(self, cell: Cell) -> None:
        began = time.time()
        try:
            figures = self.measure(cell)
        except PruneError as error:
            figures = {"problem": str(error)}
        line = {
            "cell": asdict(cell),
            "dense": self.dense,
            "images": len(self.images.test),
            **figures,
            "seconds": round(time.time() - began, 1),
        }
        with self.path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line) + "\n")
        said = f"{figures['top1']:.2f}" if "top1" in figures else figures["problem"]
        print(*asdict(cell).values(), said, f"({line['seconds']} s)", flush=True)

    def measure(self, cell: Cell) -> dict[str, object]:
        recipe = recipes.find("quick").with_(epochs=cell.epochs) if cell.epochs else None
        result = prune(
            cell.model,
            self.criterion(cell),
            cell.ratio,
            scope=cell.scope,
            repair=self.repair(cell),
            axes=None if cell.axes == "default" else cell.axes.split("+"),
            finetune=recipe,
            steps=cell.steps,
            data=zoo.DATA,
            seed=cell.seed,
        )
        made = (*result.plan.kept.values(), cell.repair, cell.seed, cell.epochs, cell.steps)
        if made not in self.found:
            self.found[made] = accuracy(result.model, batches(self.images.test, BATCH))[0]
        spent = {name: result.seconds.get(name, 0.0) for name in ("score", "repair", "train")}
        return {
            "top1": self.found[made],
            "got": result.got,
            "macs": result.after.macs,
            "spent": spent,
        }

    def criterion(self, cell: Cell):
        """Return the criterion, or its scores as they were when they were first computed."""
        found = configured(CRITERIA, cell.criterion)
        if "seed" in found.defaults:
            found = found.configure(seed=cell.seed)
        shared = (cell.criterion, cell.axes, cell.seed)

        def recorded(axes, **options):
            self.scores[shared] = found.function(axes, **options)
            return self.scores[shared]

        if cell.steps > 1:  # every step has scores of its own
            return found
        if shared in self.scores:
            return replace(found, needs="nothing", function=lambda axes, **_: self.scores[shared])
        return replace(found, function=recorded)

    def repair(self, cell: Cell):
        """Return the repair, or a variant of it.

        `lstsq@dense` is fitted on what layers get in the dense model, and `lstsq@cut` refits no
        layers but those that lost inputs.
        """
        name, _, variant = cell.repair.partition("@")
        found = REPAIRS.get(name)
        if variant == "dense":
            return replace(found, inputs="dense")
        return replace(found, follows=False) if variant == "cut" else found


def lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
