"""The tables of the page."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch_pruning as tp
from rich.table import Table
from torch import nn

from .cells import MAIN, SAME_OUTPUT, THEIRS, Cell, Line, apart, at
from .pruned import NARROW
from .side import FIX_UPS

NORMS = """\
One thing cannot be mended from outside: torch-pruning's LayernormPruner keeps weights in the order
in which Python iterates a set (function.py calls `keep_idxs.sort()` on a tensor, which sorts a
copy). Where few of many channels stay, the norm's weights change places. Of a LayerNorm over {size}
channels, pruned to {kept}, it keeps {order}. On convnext_micro this would show as a difference
from the masked model, as there is no softmax."""


def convnext(axes: str) -> str:
    return "mlp" if axes == NARROW else "mlp+width"


def exactness(difference: float) -> str:
    return "exact" if difference <= SAME_OUTPUT else f"off by {difference:.1%}"


def naming(line: Line) -> str:
    cell = line.cell
    return f"{cell.model}, {cell.tool} {label(cell)} {cell.scheme}, {cell.axes}, {cell.target:.0%}"


def label(cell: Cell) -> str:
    return f"{cell.criterion}, folded" if cell.fix_up == "folded" else cell.criterion


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
