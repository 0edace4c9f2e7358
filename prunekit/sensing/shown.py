"""shown: a sensitivity -> what the terminal shows, dear axes standing out from free ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .bench import Effect
from .measure import Sensitivity

BAR = 16  # characters
SAVED = {"params": "parameters", "macs": "MACs", "latency": "predicted latency"}
LEAST, MOST = 1e-5, 1.0  # divergence at the ends of a bar, whose scale is logarithmic


def render(found: Sensitivity) -> RenderableType:
    """Lay out what each axis costs at each ratio, and what cutting most of it saves."""
    ratios = sorted({effect.asked for effect in found.effects})
    by = str(found.recipe.get("by", "params"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("axis", header_style="dim", overflow="fold")
    table.add_column("divergence at most", header_style="dim")
    for ratio in ratios:
        table.add_column(f"-{ratio:.0%}", justify="right", header_style="dim")
    table.add_column("saves", justify="right", header_style="dim")
    for name, effects in _by_axis(found.effects).items():
        most = effects[-1]
        there = {effect.asked: effect for effect in effects}
        lost = (_lost(there[ratio]) if ratio in there else "" for ratio in ratios)
        table.add_row(name, _bar(most.divergence), *lost, f"{_saved(most, by):.1%}")
    recipe = found.recipe
    repair = f", repair {recipe['repair']}" if recipe["repair"] != "none" else ""
    title = Text(f"{recipe['arch']}", style="bold").append(
        f"  sensitivity by {recipe['criterion']}{repair}, each axis cut alone", style="not bold"
    )
    unit = "points of top-1 lost" if _labelled(found) else "share of images that are told otherwise"
    note = Text(
        f"{unit} on {found.images} training images of {recipe['data']}, by the share of slices "
        f"that left; bar: divergence from the dense model, {LEAST:g} to {MOST:g} nats, "
        f"logarithmic; saves: {SAVED[by]} of the whole model, at the largest share",
        style="dim",
    )
    uncut = [Text(f"Nothing to cut: {', '.join(found.uncut)}", style="dim")] if found.uncut else []
    return Group(title, Text(), table, *uncut, Text(), note)


def _saved(effect: Effect, by: str) -> float:
    if effect.latency is not None:
        return effect.latency
    return effect.macs if by == "macs" else effect.params


def _by_axis(effects: Sequence[Effect]) -> dict[str, list[Effect]]:
    found: dict[str, list[Effect]] = {}
    for effect in effects:
        found.setdefault(effect.axis, []).append(effect)
    return found


def _labelled(found: Sensitivity) -> bool:
    return all(effect.top1 is not None for effect in found.effects)


def _lost(effect: Effect) -> str:
    return f"{1 - effect.agreement:.1%}" if effect.top1 is None else f"{effect.top1:.2f}"


def _bar(divergence: float) -> str:
    share = math.log(max(divergence, LEAST) / LEAST) / math.log(MOST / LEAST)
    full = min(BAR, round(BAR * share))
    return "█" * full + "░" * (BAR - full)
