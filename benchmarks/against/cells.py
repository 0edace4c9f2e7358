"""The cells of the comparison, and what came of each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prunekit.criteria import CRITERIA

from .memory import WEIGHED
from .pruned import CLOSE, NARROW, SCHEMES, WIDE

OURS, THEIRS = "prunekit", "torch-pruning"


MAIN, OTHERS = 0.5, (0.3, 0.7)  # of the MACs


CRITERIA_HERE = ("random", "magnitude", "lamp", "dimap", "fpgm", "taylor", "fisher")


IMPORTANCES_HERE = ("magnitude", "lamp", "fpgm", "taylor", "hessian")


ISOMORPHIC_ONLY = ("random", "magnitude:p=1", "activation")


EXAMPLES = ("random", "magnitude", "magnitude:p=1", "taylor", "hessian")  # what they offer


REPAIRED = ("dimap", "taylor")


SAME_OUTPUT = 1e-4  # of the output's scale, as in prunekit's own proof


SEED = 0


@dataclass(frozen=True)
class Cell:
    """Everything that determines one row at one budget."""

    model: str
    tool: str
    criterion: str
    scheme: str
    axes: str
    target: float
    repair: str = "none"
    fix_up: str = "mended"


@dataclass(frozen=True)
class Line:
    """What came of a cell.

    Attributes:
        ratio: What the tool was asked for: MACs by prunekit, channels by torch-pruning.
        macs: The fraction of all MACs that is gone.
        right: Which test images it got right, as packed bits in hexadecimal.
        difference: From the masked model, as a fraction of the output's scale.
        informing, cutting, others: Seconds. Gathering statistics; scoring and removing; then
            prunekit's proof and count, torch-pruning's other tries.
        tries: How many calls it took to meet the budget.
        problem: Why there is nothing else to say, or what went wrong in some of the tries.
        heads: What torch-pruning was asked for in heads.
    """

    cell: Cell
    ratio: float = float("nan")
    macs: float = float("nan")
    right: str = ""
    difference: float = float("nan")
    informing: float = 0.0
    cutting: float = float("nan")
    others: float = 0.0
    tries: int = 1
    problem: str = ""
    heads: float = float("nan")

    @property
    def bits(self) -> np.ndarray:
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.right), np.uint8))

    @property
    def top1(self) -> float:
        return 100 * float(self.bits.mean()) if self.right else float("nan")

    @property
    def ranked(self) -> bool:
        return bool(self.right) and abs(self.macs - self.cell.target) <= CLOSE


def cells(model: str) -> Iterator[Cell]:
    """Yield the grid: all pruners at the main budget, and one at the others."""
    for name in CRITERIA_HERE:
        for axes, target in ((NARROW, MAIN), (WIDE, MAIN), *((NARROW, other) for other in OTHERS)):
            yield Cell(model, OURS, name, CRITERIA.get(name).scope, axes, target)
    for name in REPAIRED:
        yield Cell(model, OURS, name, CRITERIA.get(name).scope, NARROW, MAIN, repair="lstsq")
    for name in IMPORTANCES_HERE:
        for scheme in SCHEMES:
            yield Cell(model, THEIRS, name, scheme, NARROW, MAIN)
            if name in EXAMPLES:
                yield Cell(model, THEIRS, name, scheme, WIDE, MAIN)
        for target in OTHERS:
            yield Cell(model, THEIRS, name, "isomorphic", NARROW, target)
    for name in ISOMORPHIC_ONLY:
        for axes in (NARROW, WIDE) if name in EXAMPLES else (NARROW,):
            yield Cell(model, THEIRS, name, "isomorphic", axes, MAIN)
    for name in WEIGHED if model != "convnext_micro" else ():  # which has no attention
        yield Cell(model, THEIRS, name, "isomorphic", WIDE, MAIN, fix_up="folded")


def kept(path: Path | None) -> Iterator[Line]:
    if path and path.is_file():
        for text in path.read_text().splitlines():
            raw = json.loads(text)
            yield Line(**{**raw, "cell": Cell(**raw["cell"])})


def keep(path: Path | None, line: Line) -> None:
    cell = line.cell
    names = (cell.model, cell.target, cell.tool, cell.criterion, cell.scheme, cell.axes)
    print(*names, cell.repair, f"{line.macs:.4f} {line.top1:.2f}", line.problem, flush=True)
    if path:
        with path.open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")


def at(lines: Sequence[Line], target: float) -> list[Line]:
    return [line for line in lines if line.cell.target == target]


def apart(line: Line) -> bool:
    """Say whether channels and heads needed ratios of their own."""
    return not np.isnan(line.heads) and line.heads != line.ratio
