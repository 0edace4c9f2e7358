"""Pairs of the two tools' results at the same MACs, tested against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from scipy.stats import binomtest

from .cells import OURS, THEIRS, Line
from .pruned import NARROW, WIDE
from .tables import convnext, label


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
