"""The lines of recovery.jsonl as a page: what was reached, and by what."""

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from page import facts, markdown
from rich.table import Table

from prunekit.criteria import CRITERIA
from prunekit.plugin import configured

COMMANDS = """\
- commands: `python benchmarks/recovery.py cells` for the grid; for other axes with `--axes
  mlp+head_dim,width --criteria random,dimap:plain=true --scopes kind --ratios 0.5,0.7 --repairs
  none,lstsq,lstsq@dense,lstsq@cut`; for fine-tuning with `--criteria random,dimap:plain=true
  --scopes own --ratios 0.7 --repairs none,lstsq --seeds 0,1,2 --epochs 8`; then `page`. Cells that
  were not run are left blank.
- `dimap:plain=true`, with scope `kind`, was `dimap` itself when this was measured; what it is now
  is measured in [dimap_paper](dimap_paper/report.md) and [zoo](zoo/report.md)."""
PLAIN = "dimap:plain=true"


def scope_of(criterion: str) -> str:
    """Return the scope that a criterion, given with its options, is used in by itself."""
    return "kind" if criterion == PLAIN else configured(CRITERIA, criterion).scope


@dataclass(frozen=True)
class Line:
    """One cell and its figure.

    Attributes:
        lost: Percentage points of top-1 below the dense model.
    """

    model: str
    criterion: str
    scope: str
    repair: str
    axes: str
    ratio: float
    seed: int
    epochs: int
    dense: float
    lost: float
    got: float
    steps: int = 1


def write_page(results: Path) -> None:
    raw = [json.loads(line) for line in (results / "recovery.jsonl").read_text().splitlines()]
    lines = [
        Line(
            **line["cell"], dense=line["dense"], lost=line["dense"] - line["top1"], got=line["got"]
        )
        for line in raw
        if "top1" in line
    ]
    problems = [line for line in raw if "problem" in line]
    out = results / "recovery.md"
    out.write_text("\n".join(page(lines, problems)))
    print(f"wrote {out}: {len(lines)} cells, {len(problems)} that cannot be")


OTHER_AXES = """\
`lstsq@dense` fits every layer on what it got in the dense model, `lstsq` on what it
gets in the model repaired so far; `lstsq@cut` refits only what lost inputs itself."""


def page(lines: Sequence[Line], problems: Sequence[dict]) -> list[str]:
    stepped = [line for line in lines if line.steps > 1]
    lines = [line for line in lines if line.steps == 1]
    plain = [line for line in lines if line.epochs == 0]
    default = [line for line in plain if line.axes == "default"]
    other = [line for line in plain if line.axes != "default"]
    tuned = [line for line in lines if line.epochs]
    text = introduction(lines) + section("The best of all, and DIMAP's", best(plain))
    text += section(
        "Each criterion in its own scope, without and with `lstsq`",
        own_scope(default),
        "Default axes; the mean where there are several seeds.",
    )
    text += ["## One shot: criterion x scope x repair, default axes", ""]
    for model, own in grouped(default, "model"):
        text += [f"### {model}", "", markdown(one_shot(own)), ""]
    if other:
        title = "One shot: other axes, and what layers are fitted on"
        text += section(title, other_axes(other), OTHER_AXES)
    if tuned:
        about = (
            f"{tuned[0].epochs} epochs of the `quick` recipe on 4,500 training images; mean over\n"
            "seeds, then the range; each criterion in its own scope."
        )
        text += section("Before and after a short fine-tune", fine_tuned(default, tuned), about)
    if stepped:
        about = f"One step and {stepped[0].steps} cubic ones, without training; own scopes."
        text += section("In steps", in_steps(default, stepped), about)
    return text + missed(lines, problems)


def introduction(lines: Sequence[Line]) -> list[str]:
    dense = {line.model: line.dense for line in lines}
    return [
        "# What recovery is worth",
        "",
        "Points of top-1 lost against the dense model, on the official 10,000 test images of",
        "Fashion-MNIST; ratios are of all parameters. Repairs see 512 of the 5,000 training images",
        "of fashion-mnist-mini, without labels. The standard error of an accuracy near 90 % of",
        "10,000 images is 0.3 points. Dense: "
        + ", ".join(f"{name} {top1:.2f}" for name, top1 in dense.items())
        + ".",
        "",
        COMMANDS,
        facts("0 unless said otherwise", 1).split("\n", 1)[1],
        "",
    ]


def section(title: str, table: Table, about: str = "") -> list[str]:
    return [f"## {title}", "", *([about, ""] if about else []), markdown(table), ""]


def missed(lines: Sequence[Line], problems: Sequence[dict]) -> list[str]:
    text = [
        f"- {line.model}, {line.criterion}, {line.axes}, {line.scope}, {line.repair}: asked "
        f"{line.ratio:.0%}, got {line.got:.1%}"
        for line in lines
        if abs(line.got - line.ratio) > 0.005
    ] or ["Nowhere by more than half a point."]
    text += [
        f"- {' '.join(map(str, line['cell'].values()))}: {line['problem']}" for line in problems
    ]
    return ["## Where the budget was not met", "", *text, ""]


def best(lines: Iterable[Line]) -> Table:
    """Show the smallest loss with lstsq, over all criteria, scopes and axes."""
    table = Table("model", "ratio", "best with lstsq", "by", "best of dimap with lstsq", "by")
    fitted = [line for line in lines if line.repair == "lstsq"]
    for (model, ratio), own in grouped(fitted, "model", "ratio"):
        row = []
        for some in (own, [line for line in own if line.criterion == PLAIN]):
            first = min(some, key=lambda line: line.lost, default=None)
            row += (
                [f"{first.lost:+.2f}", f"{first.criterion}, scope {first.scope}, axes {first.axes}"]
                if first
                else ["", ""]
            )
        table.add_row(model, f"{ratio:g}", *row)
    return table


def own_scope(lines: Sequence[Line]) -> Table:
    """Show the table that the README shows."""
    mean = means(lines)
    heads = list(itertools.product(dict.fromkeys(line.model for line in lines), (0.5, 0.7)))
    table = Table("criterion", *(f"{model} {ratio:.0%}" for model, ratio in heads))
    for name in dict.fromkeys(line.criterion for line in lines):
        scope = scope_of(name)
        row = []
        for model, ratio in heads:
            pair = [mean.get((model, name, scope, ratio, repair)) for repair in ("none", "lstsq")]
            row.append(" → ".join("" if loss is None else f"{loss:.2f}" for loss in pair))
        table.add_row(name, *row)
    return table


def means(lines: Iterable[Line]) -> dict[tuple, float]:
    """Return the mean loss over seeds, by model, criterion, scope, ratio and repair."""
    names = ("model", "criterion", "scope", "ratio", "repair")
    return {key: statistics.mean(line.lost for line in own) for key, own in grouped(lines, *names)}


def one_shot(lines: Sequence[Line]) -> Table:
    ratios = sorted({line.ratio for line in lines})
    repairs = [name for name in ("none", "bias", "lstsq") if any(x.repair == name for x in lines)]
    table = Table(
        "criterion", "scope", *(f"{name} {ratio:g}" for ratio in ratios for name in repairs)
    )
    for (criterion, scope), own in grouped(lines, "criterion", "scope"):
        lost = {key[3:]: f"{loss:.2f}" for key, loss in means(own).items()}
        row = [lost.get(key, "") for key in itertools.product(ratios, repairs)]
        table.add_row(criterion, scope, *row)
    return table


def other_axes(lines: Sequence[Line]) -> Table:
    repairs = ("none", "lstsq@dense", "lstsq@cut", "lstsq")
    table = Table("model", "axes", "ratio", "criterion", *repairs)
    for key, own in grouped(lines, "model", "axes", "ratio", "criterion"):
        lost = {line.repair: f"{line.lost:.2f}" for line in own}
        table.add_row(*map(str, key), *(lost.get(name, "") for name in repairs))
    return table


def in_steps(plain: Sequence[Line], stepped: Sequence[Line]) -> Table:
    table = Table("model", "ratio", "criterion", "repair", "one step", f"{stepped[0].steps} steps")
    mean = means(plain)
    for line in stepped:
        key = (line.model, line.criterion, line.scope, line.ratio, line.repair)
        once = f"{mean[key]:.2f}" if key in mean else ""
        shown = (line.model, f"{line.ratio:g}", line.criterion, line.repair)
        table.add_row(*shown, once, f"{line.lost:.2f}")
    return table


def fine_tuned(plain: Sequence[Line], tuned: Sequence[Line]) -> Table:
    table = Table("model", "ratio", "criterion", "repair", "one shot", "fine-tuned", "seeds")
    shot = defaultdict(list)
    for line in plain:
        shot[line.model, line.ratio, line.criterion, line.repair, line.scope].append(line.lost)
    for key, own in grouped(tuned, "model", "ratio", "criterion", "repair"):
        before = shot.get((*key, own[0].scope), [])
        after = [line.lost for line in own]
        spread = f" ({min(after):.2f} to {max(after):.2f})" if len(after) > 1 else ""
        table.add_row(
            *map(str, key),
            f"{statistics.mean(before):.2f}" if before else "",
            f"{statistics.mean(after):.2f}{spread}",
            ", ".join(str(line.seed) for line in own),
        )
    return table


def grouped(lines: Iterable[Line], *names: str):
    """Group by some attributes, in the order in which values first appear."""
    found = defaultdict(list)
    for line in lines:
        key = tuple(getattr(line, name) for name in names)
        found[key if len(key) > 1 else key[0]].append(line)
    return found.items()
