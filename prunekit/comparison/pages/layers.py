"""What is kept of each layer, drawn module by module."""

from __future__ import annotations

from typing import Any

from ..findings import Kept
from .theme import colour, drawing, inline

WIDTH, HEIGHT = 250.0, 84.0  # in points
LEFT, RIGHT, BOTTOM, TOP = 26.0, 4.0, 16.0, 6.0
SPACE = 1.2  # between modules, in bars
HUES = ("s0", "s1", "s2", "s3", "s4", "s5")


def modules(kept: Kept) -> dict[str, list[float]]:
    """Group the kept fractions by kind, layers in order."""
    groups: dict[str, list[float]] = {}
    for axis, fraction in kept.fractions.items():
        groups.setdefault(kept.kinds[axis], []).append(fraction)
    return groups


def described(kept: Kept) -> str:
    """Say what the bars show, for those who do not see them."""
    parts = [
        f"{kind} {sum(bars) / len(bars):.0%} on average, {min(bars):.0%} to {max(bars):.0%} "
        f"in {len(bars)} layers"
        for kind, bars in modules(kept).items()
    ]
    return f"{kept.criterion} on {kept.arch} at {kept.ratio:.0%} keeps of {'; '.join(parts)}."


def draw_kept(kept: Kept, prefix: str) -> str:
    """Draw a bar for each layer, in a box that is as high as what it had."""
    from matplotlib.figure import Figure

    groups = modules(kept)
    with drawing():
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        inner = (WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - BOTTOM - TOP) / HEIGHT
        axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, *inner))
        axes.axis("off")
        start, ticks = 0.0, []
        for hue, (kind, bars) in enumerate(groups.items()):
            _bars(axes, start, [1.0] * len(bars), "line")
            _bars(axes, start, bars, HUES[hue % len(HUES)])
            ticks.append((start + len(bars) / 2, kind))
            start += len(bars) + SPACE
        axes.set(xlim=(0, max(start - SPACE, 1)), ylim=(0, 1))
        for x, kind in ticks:
            axes.text(x, -0.06, kind, ha="center", va="top", fontsize=8.5, color=colour("muted"))
        for y in (0, 0.5, 1):
            axes.text(-0.015, y, f"{100 * y:g}", transform=axes.transAxes, ha="right",
                      va="center", fontsize=7.5, color=colour("muted"))  # fmt: skip
        return inline(figure, described(kept), prefix)


def _bars(axes: Any, start: float, heights: list[float], hue: str) -> None:
    """Draw bars as one shape, which is a fifth of the size of as many shapes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    boxes = []
    for i, height in enumerate(heights):
        left, right = start + i + 0.1, start + i + 0.9
        corners = [(left, 0), (left, height), (right, height), (right, 0), (left, 0)]
        boxes.append(Path(corners, closed=True))
    axes.add_patch(PathPatch(Path.make_compound_path(*boxes), facecolor=colour(hue), linewidth=0))
