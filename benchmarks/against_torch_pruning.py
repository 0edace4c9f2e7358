"""prunekit next to torch-pruning's own pruner: same weights, same data, same achieved MACs.

    python benchmarks/against_torch_pruning.py [--models ...] [--cells FILE]

The zoo's models lose 30, 50 and 70 % of their MACs, by torch-pruning's importances with its
local, global and isomorphic pruner, fixed up by hand (torch_pruning_side.py), and by prunekit's
criteria; each is then evaluated on all 10,000 test images. Writes
benchmarks/results/against_torch_pruning.md. With --cells, finished cells are kept in a file, and
those that are there are not computed again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from page import facts, markdown
from rich.table import Table
from scipy.stats import binomtest
from torch import Tensor, nn
from torch_pruning_side import (
    CALIBRATION,
    CLOSE,
    FIX_UPS,
    MORE_TRIES,
    NARROW,
    ROUND_TO,
    SCHEMES,
    TRIES,
    WIDE,
    BrokenError,
    Choice,
    Informed,
    cut,
    inform,
    prune_once,
    search,
)

from prunekit import PruneError, prune
from prunekit.adapters.finding import adapter_for
from prunekit.criteria import CRITERIA
from prunekit.engine import configure
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import Data, batches, open_data
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.accuracy import accuracy

OUT = Path(__file__).parent / "results" / "against_torch_pruning.md"
OURS, THEIRS = "prunekit", "torch-pruning"
MAIN, OTHERS = 0.5, (0.3, 0.7)  # of the MACs
CRITERIA_HERE = ("random", "magnitude", "lamp", "dimap", "fpgm", "taylor", "fisher")
IMPORTANCES_HERE = ("magnitude", "lamp", "fpgm", "taylor", "hessian")
ISOMORPHIC_ONLY = ("random", "magnitude:p=1", "activation")
EXAMPLES = ("random", "magnitude", "magnitude:p=1", "taylor", "hessian")  # what they offer
REPAIRED = ("dimap", "taylor")
WEIGHED = ("magnitude", "taylor")  # whose memory is measured, one without and one with images
SAME_OUTPUT = 1e-4  # of the output's scale, as in prunekit's own proof
SEED = 0
BATCH = 100  # images in a forward pass


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


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.memory_of:
        print(peak_of(*args.memory_of.split(",")))
        return
    done = {line.cell: line for line in kept(args.cells)}
    lines, dense, memory, mending = [], {}, {}, []
    for model in args.models.split(","):
        bench = Bench(model)
        dense[model] = bench.dense
        mending += [bench.mending(axes) for axes in (NARROW, WIDE)]
        for cell in cells(model):
            if cell not in done:
                done[cell] = bench.run(cell)
                keep(args.cells, done[cell])
            lines.append(done[cell])
        memory |= {(model, t, c): peak(model, t, c) for t in (OURS, THEIRS) for c in WEIGHED}
    OUT.write_text("\n".join(page(lines, dense, memory, mending)) + "\n")
    print(f"wrote {OUT}: {len(lines)} cells")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="swin_micro,vit_micro,convnext_micro")
    parser.add_argument("--cells", type=Path, help="keep finished cells here")
    parser.add_argument("--memory-of", help="only print a peak; MODEL,TOOL,CRITERION")
    return parser.parse_args()


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


# --- running ---------------------------------------------------------------------------


class Bench:
    """One model, its test images, and what importances have seen of it."""

    def __init__(self, name: str):
        self.name, self.model = name, build(name).model
        self.example = InputSpec.of(self.model).example()
        self.images = open_data(zoo.DATA, self.model)
        self.test = list(batches(self.images.test, BATCH))
        self.dense = accuracy(self.model, self.test)[0]
        self.informed: dict[str, Informed] = {}
        self.seen: dict[tuple, str] = {}  # different ways often lead to the same model
        prune(name, "magnitude", 0.5, by="macs", seed=SEED)  # loads what is loaded on first use

    def run(self, cell: Cell) -> Line:
        return self.ours(cell) if cell.tool == OURS else self.theirs(cell)

    def ours(self, cell: Cell) -> Line:
        scoring, found = 0.0, configure(cell.criterion, SEED)

        def timed(axes, **options):
            nonlocal scoring
            start = time.perf_counter()
            scores = found.function(axes, **options)
            scoring += time.perf_counter() - start
            return scores

        try:
            result = prune(
                self.name,
                replace(found, function=timed),
                cell.target,
                by="macs",
                repair=cell.repair,
                axes=[kind for kind in cell.axes.split("+") if kind in self.kinds()],
                data=zoo.DATA,
                calibration=CALIBRATION,
                seed=SEED,
            )
        except PruneError as error:
            return Line(cell, problem=str(error))
        spent = result.seconds
        made = (OURS, *result.plan.kept.values(), cell.repair, cell.repair != "none" and cell)
        return Line(
            cell,
            cell.target,
            result.got,
            self.right(result.model, made),
            result.parity.difference / result.parity.scale,
            informing=spent["score"] - scoring + spent.get("repair", 0.0),
            cutting=scoring + spent["trace"] + spent["plan"] + spent["shrink"],
            others=spent["silence"] + spent["verify"] + spent["measure"],
        )

    def kinds(self) -> tuple[str, ...]:
        return adapter_for(self.model).kinds

    def theirs(self, cell: Cell) -> Line:
        informed = self.inform(cell.criterion)
        choice = Choice(cell.criterion, cell.scheme, cell.axes, cell.fix_up)
        found = search(informed, choice, cell.target, self.example, SEED)
        problem = next(iter(found.problems.values()), "")
        if found.best is None:
            return Line(cell, tries=found.tries, others=found.seconds, problem=problem)
        best = found.best
        return Line(
            cell,
            found.ratios[0],
            best.macs,
            self.right(best.model, (THEIRS, best.removals, cell.fix_up)),
            best.difference,
            informing=informed.seconds,
            cutting=best.seconds,
            others=found.seconds - best.seconds,
            tries=found.tries,
            problem=problem,
            heads=found.ratios[1],
        )

    def inform(self, importance: str) -> Informed:
        if importance not in self.informed:
            images = self.images.calibration
            self.informed[importance] = inform(self.model, importance, images, self.example, SEED)
        return self.informed[importance]

    @torch.inference_mode()
    def right(self, model: nn.Module, made: tuple) -> str:
        """Return which test images the model gets right, as bits in hexadecimal."""
        if made not in self.seen:
            found = torch.cat([model(x).argmax(1) == y for x, y in self.test])
            self.seen[made] = np.packbits(found.numpy()).tobytes().hex()
        return self.seen[made]

    def mending(self, axes: str) -> tuple[str, ...]:
        """Say what each way to fix up leaves, at half of the channels."""
        said = []
        for fix_up in FIX_UPS:
            choice = Choice("magnitude", "isomorphic", axes, fix_up)
            try:
                made = prune_once(self.inform("magnitude"), choice, 0.5, self.example, SEED)
            except BrokenError as error:
                said.append(textwrap.shorten(str(error), 70, placeholder=" ..."))
            else:
                said.append(f"runs, {exactness(made.difference)}")
        return (self.name, axes, *said)


# --- memory ----------------------------------------------------------------------------


def peak(model: str, tool: str, criterion: str) -> float:
    """Measure in a fresh process, MB."""
    command = [sys.executable, __file__, "--memory-of", f"{model},{tool},{criterion}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak_of(name: str, tool: str, criterion: str) -> float:
    """Return by how much the process grew at its peak while it pruned, MB."""
    model = build(name).model
    example, images = InputSpec.of(model).example(), open_data(zoo.DATA, model)
    # A model of a few kB loads what is loaded on first use.
    toy, x = adapter_for(model).toy()
    use(OURS, toy.eval(), "magnitude", x[:1], None)
    use(THEIRS, toy.eval(), "magnitude", x[:1], None)
    forget_peak()
    before = high_water()
    made = use(tool, model, criterion, example, images)
    peak = high_water() - before
    del made  # until here, so that the result counts
    return peak


def use(
    tool: str, model: nn.Module, criterion: str, example: Tensor, images: Data | None
) -> object:
    if tool == OURS:
        data = {"data": zoo.DATA} if images else {}
        return prune(model, criterion, 0.5, by="macs", example_input=example, seed=SEED, **data)
    drawn = images.calibration if images else None
    informed = inform(model, criterion, drawn, example, SEED)
    return cut(informed, Choice(criterion, "isomorphic", NARROW), (0.5, 0.5), example, SEED)


def forget_peak() -> None:
    """Make the kernel forget how large the process has ever been."""
    Path("/proc/self/clear_refs").write_text("5")


def high_water() -> float:
    # Not ru_maxrss, which a child has from its parent, even through exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1000  # from kB


# --- the page --------------------------------------------------------------------------


def page(
    lines: Sequence[Line],
    dense: dict[str, float],
    memory: dict[tuple[str, str, str], float],
    mending: Sequence[tuple[str, ...]],
) -> list[str]:
    lines = [line for line in lines if line.cell.model in dense]
    plain = [line for line in lines if line.cell.repair == "none"]
    text = [
        "# prunekit next to torch-pruning's own pruner",
        "",
        INTRODUCTION,
        "",
        "Dense: " + ", ".join(f"{name} {top1:.2f}" for name, top1 in dense.items()) + ".",
        "",
        facts(SEED, 1),
        f"- data: {zoo.DATA}, all 10,000 test images; {CALIBRATION} training images for what needs"
        " any",
        "",
        "## What this says",
        "",
        *says(lines, memory),
        "",
        "## Best of theirs against best of ours",
        "",
        BEST,
        "",
        markdown(duels(plain, dense)),
        "",
        "## What has to be fixed by hand",
        "",
        MENDING,
        "",
        markdown(mending_table(mending)),
        "",
        norms(),
        "",
    ]
    for model, top1 in dense.items():
        for axes in (NARROW, WIDE):
            own = [x for x in plain if x.cell.model == model and x.cell.axes == axes]
            title = f"## {model}, {axes if model != 'convnext_micro' else convnext(axes)}"
            text += [title, "", markdown(rows(own, top1, memory)), ""]
    repaired = [line for line in lines if line.cell.repair != "none"]
    text += ["## With a repair, which torch-pruning has not", "", REPAIR, ""]
    text += [markdown(repairs(repaired, plain, dense)), ""]
    failed = [line for line in plain if line.problem]
    text += ["## What went wrong on the way", ""]
    text += [f"- {naming(line)}: {line.problem}" for line in failed] or ["Nothing raised."]
    return text


INTRODUCTION = f"""\
Points of top-1 lost in one shot, without training, where both tools remove the same fraction of
all MACs, counted by prunekit on the small model. Weights, test images, calibration
images and the seed are the same. prunekit solves for the MACs itself. torch-pruning takes a ratio
of channels; the one that meets the budget was searched for, by bisection and interpolation, in at
most {TRIES} tries, each with a fresh copy of the model, a fresh pruner and fresh dictionaries. What
ends up more than {CLOSE:.1%} of the MACs away from the budget carries an asterisk and no rank.

*{NARROW}* is what prunekit shrinks by default: MLP channels and whole heads. torch-pruning is held
to it by ignoring all layers but `qkv` and `fc1`, with `prune_num_heads`, without
`prune_head_dims`, and with one ratio for channels and heads; where that misses the budget, since
few heads make for large steps, the heads keep theirs and up to {MORE_TRIES} more tries look for
another one for the channels (the column then shows both). *{WIDE}* is what
torch-pruning's own examples do: only the classifier (and Swin's bias tables) is ignored, heads
stay and their dimensions shrink; prunekit gets the axes of the same names, which are not its
defaults. Sizes are rounded to {ROUND_TO} by torch-pruning, as in its examples; by prunekit, MLP
and width to 8 with no axis below a tenth, its defaults.

torch-pruning's importances have their defaults. `local` is uniform, `global` ranks all groups
together, `isomorphic` ranks groups of the same structure, on top of `global_pruning=True`. All
three pruners run at 50 %, the isomorphic one alone at 30 and 70 % and for
{", ".join(ISOMORPHIC_ONLY)}, to save time; {WIDE} is pruned at 50 % alone,
by the importances that the examples offer. BNScaleImportance has nothing to score, as these models
have no batch norm. GroupHessianImportance remembers the squared gradient of the last image only,
and ActivationImportance the last batch only (importance.py asks for names where it stores
parameters, and overwrites); they are used as they are. prunekit's criteria run in their own scopes.
Everything ran once, with one seed: `random` is one draw on either side.

*as masked*: the largest difference from the output of the large model with the same slices
silenced, over that output's largest value, on one image of noise; norms average over what is left.
"exact" is below {SAME_OUTPUT:g}. *statistics*: seconds for gradients or activations of the
{CALIBRATION} images, which torch-pruning's rows of one model share; fisher and hessian take one
gradient per image. *cut*: seconds to trace, score, choose and remove, once, the model being built
already. *besides*: prunekit's proof and count of MACs; torch-pruning's other tries. All are
wall-clock, of one run each, both tools in one process in turn: what else the machine does shows.
*memory*: by how much the resident set grew at its peak (VmHWM in /proc/self/status), MB, from
before the statistics to the end of one cut at 50 %, in a fresh process that had built the model,
opened the images and pruned a toy with both tools; prunekit's includes the proof, torch-pruning's
no search. Measured for {" and ".join(WEIGHED)} only, {NARROW}, isomorphic."""

BEST = """\
On images that only one of the two gets right, and the p of McNemar's exact test. The best of each
side was picked on the same images that are counted here, which favours the side with more
candidates; those that missed the budget are no candidates. No repairs."""

MENDING = """\
Half of the channels, by magnitude with the isomorphic pruner. *documented* is what the examples
set after pruning: `num_heads` from the pruner, `head_dim` and `scale`. Their PatchMerging pruner
is used in all columns. *mended*, used everywhere else on this page, adds what current timm needs:
`attn_dim`, the kept columns of Swin's relative position bias table (the examples have the pruner
ignore it), and heads counted from what left, since the pruner counts heads down even where it then
takes none. *folded* also scales the queries by the root of new over old head dimension; without
that, fewer head dimensions mean another softmax temperature, so that the small model does not
compute what the masked one does. Where a model runs and is off, nothing says so."""

NORMS = """\
One thing cannot be mended from outside: torch-pruning's LayernormPruner keeps weights in the order
in which Python iterates a set (function.py calls `keep_idxs.sort()` on a tensor, which sorts a
copy). Where few of many channels stay, the norm's weights change places. Of a LayerNorm over {size}
channels, pruned to {kept}, it keeps {order}. On convnext_micro this would show as a difference
from the masked model, as there is no softmax."""

REPAIR = """\
`--repair lstsq` on the same images without labels; *statistics* contains it."""


def convnext(axes: str) -> str:
    return "mlp" if axes == NARROW else "mlp+width"


def exactness(difference: float) -> str:
    return "exact" if difference <= SAME_OUTPUT else f"off by {difference:.1%}"


def naming(line: Line) -> str:
    cell = line.cell
    return f"{cell.model}, {cell.tool} {label(cell)} {cell.scheme}, {cell.axes}, {cell.target:.0%}"


def label(cell: Cell) -> str:
    return f"{cell.criterion}, folded" if cell.fix_up == "folded" else cell.criterion


def at(lines: Sequence[Line], target: float) -> list[Line]:
    return [line for line in lines if line.cell.target == target]


def rows(lines: Sequence[Line], dense: float, memory: dict[tuple[str, str, str], float]) -> Table:
    """Show all ways at the main budget, best first; the other budgets beside it."""
    table = Table(
        *("rank", "tool", "criterion", "ranked by", "ratio", "MACs gone", "top-1", "lost"),
        *("as masked", "statistics", "cut", "besides", "tries", "memory"),
        *("lost at 30 %", "lost at 70 %"),
    )
    here = sorted(at(lines, MAIN), key=lambda line: (not line.ranked, -line.top1))
    others = {replace(x.cell, target=MAIN): x for x in at(lines, 0.3)}
    last = {replace(x.cell, target=MAIN): x for x in at(lines, 0.7)}
    for rank, line in enumerate(here, 1):
        cell = line.cell
        table.add_row(
            str(rank) if line.ranked else "",
            cell.tool,
            label(cell),
            cell.scheme,
            *figures(line, dense),
            peak_text(line, memory),
            lost(others.get(cell), dense),
            lost(last.get(cell), dense),
        )
    return table


def figures(line: Line, dense: float) -> list[str]:
    if not line.right:
        return ["", "broken", "", "", line.problem[:40], "", "", f"{line.others:.1f}", ""]
    star = "" if line.ranked else " *"
    informing = f"{line.informing:.2f}" if line.informing >= 0.005 else ""
    return [
        f"{line.ratio:.3f}, {line.heads:.3f}" if apart(line) else f"{line.ratio:.3f}",
        f"{100 * line.macs:.2f}{star}",
        f"{line.top1:.2f}",
        f"{dense - line.top1:.2f}",
        exactness(line.difference),
        informing,
        f"{line.cutting:.2f}",
        f"{line.others:.1f}",
        str(line.tries),
    ]


def apart(line: Line) -> bool:
    """Say whether channels and heads needed ratios of their own."""
    return not np.isnan(line.heads) and line.heads != line.ratio


def peak_text(line: Line, memory: dict[tuple[str, str, str], float]) -> str:
    cell = line.cell
    if cell.axes != NARROW or (cell.tool == THEIRS and cell.scheme != "isomorphic"):
        return ""
    found = memory.get((cell.model, cell.tool, cell.criterion))
    return "" if found is None else f"{found:.0f}"


def lost(line: Line | None, dense: float) -> str:
    if line is None:
        return ""
    if not line.right:
        return "broken"
    return f"{dense - line.top1:.2f}" + ("" if line.ranked else f" ({line.macs:.1%}) *")


def mending_table(mending: Sequence[tuple[str, ...]]) -> Table:
    table = Table("model", "axes", *FIX_UPS)
    for row in mending:
        table.add_row(*row)
    return table


def norms(size: int = 24, kept: Sequence[int] = (2, 8, 17, 20)) -> str:
    """Show in which order torch-pruning keeps the weights of a norm."""
    norm = nn.LayerNorm(size)
    norm.weight.data = torch.arange(float(size))
    tp.prune_layernorm_out_channels(norm, [n for n in range(size) if n not in kept])
    order = [int(weight) for weight in norm.weight]
    return NORMS.format(size=size, kept=list(kept), order=order)


def repairs(lines: Sequence[Line], plain: Sequence[Line], dense: dict[str, float]) -> Table:
    table = Table("model", "budget", "criterion", "MACs gone", "lost", "lost without", "statistics")
    without = {line.cell: line for line in plain}
    for line in sorted(lines, key=lambda x: (x.cell.model, x.cell.target)):
        cell, top1 = line.cell, dense[line.cell.model]
        table.add_row(
            cell.model,
            f"{cell.target:.0%}",
            cell.criterion,
            f"{line.macs:.2%}",
            lost(line, top1),
            lost(without.get(replace(cell, repair="none")), top1),
            f"{line.informing:.2f}",
        )
    return table


# --- what the figures say --------------------------------------------------------------


@dataclass(frozen=True)
class Duel:
    """The best of both sides on one model, axes and budget."""

    ours: Line
    theirs: Line
    candidates: tuple[int, int]

    @property
    def only(self) -> tuple[int, int]:
        """How many images only ours, and only theirs, gets right."""
        ours, theirs = self.ours.bits, self.theirs.bits
        return int((ours > theirs).sum()), int((theirs > ours).sum())

    @property
    def p(self) -> float:
        first, second = self.only
        return float(binomtest(first, first + second).pvalue) if first + second else 1.0

    @property
    def winner(self) -> str | None:
        first, second = self.only
        return None if self.p >= 0.05 else OURS if first > second else THEIRS


def all_duels(lines: Sequence[Line]) -> list[Duel]:
    found = []
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        cell = line.cell
        groups.setdefault((cell.model, cell.axes, cell.target), []).append(line)
    models = list(dict.fromkeys(model for model, *_ in groups))
    for key in sorted(groups, key=lambda key: (models.index(key[0]), *key[1:])):
        ranked = [line for line in groups[key] if line.ranked]
        sides = [[line for line in ranked if line.cell.tool == tool] for tool in (OURS, THEIRS)]
        if all(sides):
            best = [max(side, key=lambda line: line.top1) for side in sides]
            found.append(Duel(*best, (len(sides[0]), len(sides[1]))))
    return found


def duels(lines: Sequence[Line], dense: dict[str, float]) -> Table:
    table = Table(
        *("model", "axes", "budget", "best of ours", "lost", "of", "best of theirs", "lost", "of"),
        *("only ours right", "only theirs right", "p"),
    )
    for duel in all_duels(lines):
        cell, top1 = duel.ours.cell, dense[duel.ours.cell.model]
        sides = []
        for line, count in zip((duel.ours, duel.theirs), duel.candidates, strict=True):
            name = f"{label(line.cell)}, {line.cell.scheme}"
            sides += [name, f"{top1 - line.top1:.2f}", str(count)]
        only = map(str, duel.only)
        axes = convnext(cell.axes) if cell.model == "convnext_micro" else cell.axes
        table.add_row(cell.model, axes, f"{cell.target:.0%}", *sides, *only, f"{duel.p:.2g}")
    return table


def says(lines: Sequence[Line], memory: dict[tuple[str, str, str], float]) -> list[str]:
    plain = [line for line in lines if line.cell.repair == "none"]
    theirs = [line for line in plain if line.cell.tool == THEIRS]
    ours = [line for line in plain if line.cell.tool == OURS]
    return [
        *accuracy_said(all_duels(plain)),
        like_said(plain),
        budgets_said(ours, theirs),
        exact_said(theirs),
        seconds_said(ours, theirs),
        memory_said(memory),
    ]


def accuracy_said(found: Sequence[Duel]) -> list[str]:
    said = []
    for axes in (NARROW, WIDE):
        here = [duel for duel in found if duel.ours.cell.axes == axes]
        wins = [[d for d in here if d.winner == tool] for tool in (OURS, THEIRS, None)]
        named = [
            ", ".join(f"{d.ours.cell.model} {d.ours.cell.target:.0%}" for d in some) or "nowhere"
            for some in wins
        ]
        said.append(
            f"- Best against best, {axes}, {len(here)} comparisons: prunekit is better in "
            f"{len(wins[0])} ({named[0]}), torch-pruning in {len(wins[1])} ({named[1]}), and "
            f"in {len(wins[2])} p is 0.05 or more ({named[2]})."
        )
    return said


SAME_NAMES = {"fisher": "hessian"}  # squared gradients, under two names


def like_said(lines: Sequence[Line]) -> str:
    """Compare criteria of the same name, each side in the scope that the tool recommends."""
    wins = {OURS: 0, THEIRS: 0}
    gaps = []
    by_cell = {line.cell: line for line in lines if line.ranked}
    for cell, line in by_cell.items():
        name = SAME_NAMES.get(cell.criterion, cell.criterion)
        other = replace(cell, tool=THEIRS, criterion=name, scheme="isomorphic")
        if cell.tool == OURS and name != "random" and other in by_cell:
            gaps.append(line.top1 - by_cell[other].top1)
            wins[OURS if gaps[-1] > 0 else THEIRS] += 1
    if not gaps:
        return "- No two criteria of the same name met the same budget."
    return (
        f"- Criteria of the same name (fisher for hessian, random left out), prunekit's in its own "
        f"scope and torch-pruning's isomorphic: prunekit's keeps more top-1 in {wins[OURS]} of "
        f"{len(gaps)} pairs, torch-pruning's in {wins[THEIRS]}; the median difference is "
        f"{statistics.median(gaps):+.2f} points, from {min(gaps):+.2f} to {max(gaps):+.2f}."
    )


def budgets_said(ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    def missed(lines: Sequence[Line]) -> str:
        return f"{sum(not line.ranked for line in lines)} of {len(lines)}"

    tries = statistics.median(line.tries for line in theirs)
    return (
        f"- Budgets missed by more than {CLOSE:.1%} of the MACs: torch-pruning {missed(theirs)}, "
        f"after a median of {tries:g} tries; prunekit {missed(ours)}, in one."
    )


def exact_said(theirs: Sequence[Line]) -> str:
    def inexact(axes: str, attentive: bool) -> str:
        here = [
            line
            for line in theirs
            if line.cell.axes == axes
            and line.cell.fix_up != "folded"
            and (line.cell.model != "convnext_micro") == attentive
        ]
        return f"{sum(not line.difference <= SAME_OUTPUT for line in here)} of {len(here)}"

    broken = sum(not line.right for line in theirs)
    return (
        f"- After mending, torch-pruning left no model that runs in {broken} of {len(theirs)} "
        "cells, and one that computes something else than the masked model, where there is "
        f"attention, in {inexact(NARROW, True)} with {NARROW} and {inexact(WIDE, True)} with "
        f"{WIDE}, where the softmax has another temperature; on convnext_micro in "
        f"{inexact(NARROW, False)} and {inexact(WIDE, False)}. prunekit refuses to return such a "
        "model."
    )


def seconds_said(ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    def medians(name: str, model: str) -> str:
        each = [
            statistics.median(getattr(x, name) for x in side if x.right and x.cell.model == model)
            for side in (ours, theirs)
        ]
        return f"{model} {each[0]:.2f} and {each[1]:.2f}"

    models = dict.fromkeys(line.cell.model for line in ours)
    cutting = "; ".join(medians("cutting", model) for model in models)
    others = "; ".join(medians("others", model) for model in models)
    return (
        f"- Median seconds of one cut, prunekit's and torch-pruning's: {cutting}. Besides, for "
        f"prunekit's proof and count, and for torch-pruning's other tries: {others}."
    )


def memory_said(memory: dict[tuple[str, str, str], float]) -> str:
    said = [
        f"{model} {criterion} {memory[model, OURS, criterion]:.0f} and "
        f"{memory[model, THEIRS, criterion]:.0f}"
        for model in dict.fromkeys(model for model, *_ in memory)
        for criterion in WEIGHED
    ]
    return f"- Peak memory in MB, prunekit's and torch-pruning's: {'; '.join(said)}."


if __name__ == "__main__":
    main()
