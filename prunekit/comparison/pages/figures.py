"""Accuracy against what a model costs: one panel per model, with the control and the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from ..findings import Findings
from .panels import MACS, Curve, Panel, Point, _title, front, panels
from .theme import COLOURS, colour, drawing, inline, standalone
from .words import Series, methods, unit_of

MARKERS = "osD^vPX<>p*hd"


DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


WIDTH, HEIGHT = 340.0, 290.0  # of a panel, in points: about what a phone shows it at


LEFT, RIGHT, BOTTOM, TOP = 80.0, 30.0, 40.0, 24.0  # of what surrounds its axes


ROOM = 70.0  # for a name, to the left of the axes


LONGEST = 24  # characters, of which no font has room for more


GAP = 10.5  # between two labels


LABEL = 8.5  # size of all that is written into a panel


LEAST_ERROR = 0.05  # per cent; less is drawn as this


NOTE = "Step line: Pareto front. Grey dashes: control. Bars: 95 % intervals; pale: range of seeds."


STEPS = (50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


def draw(panel: Panel, prefix: str) -> str:
    """Draw one panel as an element of a page."""
    with drawing():
        figure = _figure(WIDTH, HEIGHT)
        _paint(figure, panel, 0.0, 0.0)
        return inline(figure, str(panel), prefix)


def overview(findings: Findings) -> str:
    """Draw accuracy against MACs for every model, with the first method, as a file."""
    shown = panels(findings, MACS)
    shown = [panel for panel in shown if panel.method == shown[0].method]
    columns = min(len(shown), 3) or 1
    rows = math.ceil(len(shown) / columns)
    head, foot = 36.0, 22.0
    width, height = max(columns * WIDTH, 1.5 * WIDTH), rows * HEIGHT + head + foot
    with drawing():
        figure = _figure(width, height)
        if shown:
            title = _title(shown[0].method, methods(findings))
            _write(figure, 14, height - 18, title, fontsize=12, fontweight="bold")
        for place, panel in enumerate(shown):
            row, column = divmod(place, columns)
            _paint(figure, panel, column * WIDTH, height - head - (row + 1) * HEIGHT, named=True)
        _write(figure, 14, 9, NOTE, color=colour("muted"), fontsize=LABEL)
        return standalone(figure, f"{' '.join(map(str, shown)) or 'Nothing to show yet.'}")


def swatch(entry: Series) -> str:
    """Draw what a series looks like, for a legend."""
    with drawing():
        figure = _figure(30.0, 12.0)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 2), ylim=(-1, 1))
        axes.axis("off")
        axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **_style(entry))
        return inline(figure, entry.name, f"w{entry.number}-")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72))


def _write(figure: Any, x: float, y: float, text: str, **look: Any) -> None:
    width, height = figure.get_size_inches() * 72
    figure.text(x / width, y / height, text, **look)


def _paint(figure: Any, panel: Panel, x: float, y: float, named: bool = False) -> None:
    """Paint a panel with its lower left corner at (x, y), in points."""
    axes = _axes(figure, panel, x, y)
    everything = [point for curve in panel.curves for point in curve.points]
    everything += [panel.dense] if panel.dense else []
    _limit(axes, everything)
    _tick(axes, panel)
    _front(axes, everything)
    for curve in panel.curves:
        _curve(axes, curve, panel.dense)
    _dense_mark(axes, panel.dense)
    _label(axes, panel.curves)
    if named:
        _write(figure, x + 14, y + HEIGHT - 12, panel.arch, fontsize=10.5, fontweight="bold")


def _axes(figure: Any, panel: Panel, x: float, y: float) -> Any:
    width, height = figure.get_size_inches() * 72
    box = ((x + LEFT) / width, (y + BOTTOM) / height)
    inner = ((WIDTH - LEFT - RIGHT) / width, (HEIGHT - BOTTOM - TOP) / height)
    axes = figure.add_axes((*box, *inner))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.patch.set_visible(False)
    axes.yaxis.tick_right()
    axes.tick_params(length=0, labelsize=LABEL)
    axes.grid(axis="y", color=colour("line"), linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _height(top1: float) -> float:
    """Return how high an accuracy is drawn: by the logarithm of the error.

    So that a control that is lost at the bottom leaves room for the others at the top.
    """
    return -math.log(max(100 - top1, LEAST_ERROR))


def _limit(axes: Any, points: Sequence[Point]) -> None:
    costs = [point.cost for point in points]
    heights = [_height(edge) for point in points for edge in point.edges]
    wide = (max(costs) - min(costs)) or 0.2 * max(costs)
    tall = (max(heights) - min(heights)) or 0.1
    axes.set_xlim(min(costs) - 0.06 * wide, max(costs) + 0.05 * wide)
    axes.set_ylim(min(heights) - 0.05 * tall, max(heights) + 0.1 * tall)


def _tick(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    accuracies = _nice(*axes.get_ylim())
    axes.set_yticks([_height(value) for value in accuracies], [f"{v:g}" for v in accuracies])
    low, high = axes.get_xlim()
    unit, letter = unit_of(high) if panel.kind == MACS else (1.0, "")
    costs = [
        v
        for v in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if low <= v <= high
    ]
    axes.set_xticks(costs, [f"{value / unit:.3g}" for value in costs])
    label = panel.label + (f" ({letter})" if letter else "")
    axes.set_xlabel(label, fontsize=LABEL, color=colour("muted"), labelpad=4)
    axes.annotate("top-1, %", (1, 1), (RIGHT - 4, 9), xycoords="axes fraction", ha="right",
                  textcoords="offset points", fontsize=LABEL, color=colour("muted"))  # fmt: skip


def _nice(low: float, high: float) -> list[float]:
    """Choose round accuracies that are far enough apart where they are drawn."""
    chosen: list[float] = []
    for step in STEPS:
        first, last = (100 - math.exp(-edge) for edge in (low, high))
        for k in range(math.ceil(first / step), math.floor(last / step) + 1):
            spots = [_height(value) for value in chosen]
            spot = _height(k * step)
            if all(abs(spot - other) > 0.12 * (high - low) for other in spots):
                chosen.append(round(k * step, 4))
        if len(chosen) >= 5:
            break
    return sorted(chosen)


def _style(entry: Series) -> dict[str, Any]:
    """Return what a series looks like; no two look the same to the colour-blind."""
    if entry.control:
        return {"color": colour("control"), "linestyle": (0, (3, 1.6)), "linewidth": 1.6,
                "marker": "o", "markersize": 4.2, "markerfacecolor": colour("ground"),
                "markeredgewidth": 1.1}  # fmt: skip
    return {
        "color": colour(f"s{entry.number % COLOURS}"),
        "linestyle": DASHES[entry.number // COLOURS % len(DASHES)],
        "linewidth": 1.3,
        "marker": MARKERS[entry.number % len(MARKERS)],
        "markersize": 4.2,
        "markeredgewidth": 0.0 if MARKERS[entry.number % len(MARKERS)] not in "+x" else 1.0,
    }


def _curve(axes: Any, curve: Curve, dense: Point | None) -> None:
    points = [dense, *curve.points] if dense else list(curve.points)
    gid = f"series-{curve.series.number}"
    look = _style(curve.series)
    line = {key: value for key, value in look.items() if not key.startswith("marker")}
    places = [(point.cost, _height(point.top1)) for point in points]
    axes.plot(*zip(*places, strict=True), gid=gid, **line)
    own = places[-len(curve.points) :]
    bars = [(point.cost, _height(point.low), _height(point.high)) for point in curve.points]
    axes.vlines(*zip(*bars, strict=True), color=look["color"], linewidth=0.8, alpha=0.45, gid=gid)
    for point in curve.points:
        if point.fast is not None and point.slow is not None:
            axes.hlines(_height(point.top1), point.fast, point.slow, color=look["color"],
                        linewidth=0.8, alpha=0.45, gid=gid)  # fmt: skip
        if point.worst is not None and point.best is not None:
            ends = _height(point.worst), _height(point.best)
            axes.vlines(point.cost, *ends, color=look["color"], linewidth=4, alpha=0.2, gid=gid)
    axes.plot(*zip(*own, strict=True), gid=gid, **look | {"linestyle": "none"}, zorder=3)


def _front(axes: Any, points: Sequence[Point]) -> None:
    """Draw the front as a staircase: what the cheapest models reach, up to each cost."""
    steps = [(point.cost, _height(point.top1)) for point in front(points)]
    steps.append((axes.get_xlim()[1], steps[-1][1]))
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=colour("ink"),
              linewidth=0.9, alpha=0.8, zorder=1.5)  # fmt: skip


def _dense_mark(axes: Any, dense: Point | None) -> None:
    if dense is None:
        return
    place = (dense.cost, _height(dense.top1))
    axes.plot([place[0]], [place[1]], marker="o", markersize=5, color=colour("ink"), zorder=4)
    axes.annotate(f"dense {dense.top1:.1f}", place, xytext=(3, 6), textcoords="offset points",
                  ha="right", fontsize=LABEL, color=colour("ink"))  # fmt: skip


def _label(axes: Any, curves: Sequence[Curve]) -> None:
    """Write every name to the left of where its curve ends, and lead a thin line there."""
    tall = HEIGHT - BOTTOM - TOP
    ends = [_place(axes, min(curve.points, key=lambda point: point.cost)) for curve in curves]
    spots = _spread([y * tall for _, y in ends], min(GAP, tall / max(len(ends), 1)), tall)
    for curve, (x, y), spot in zip(curves, ends, spots, strict=True):
        gid, ink = f"series-{curve.series.number}", _style(curve.series)["color"]
        axes.plot([-0.02, 0.0, x], [spot / tall, spot / tall, y], transform=axes.transAxes,
                  color=ink, linewidth=0.6, alpha=0.6, clip_on=False, gid=gid)  # fmt: skip
        axes.text(-0.035, spot / tall, _clipped(curve.series.name), transform=axes.transAxes,
                  ha="right", va="center_baseline", fontsize=LABEL, color=ink, gid=gid)  # fmt: skip


def _place(axes: Any, point: Point) -> tuple[float, float]:
    """Return where a point is, in fractions of the axes."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return (point.cost - left) / (right - left), (_height(point.top1) - low) / (high - low)


def _spread(wanted: Sequence[float], gap: float, tall: float) -> list[float]:
    """Move labels apart until they are `gap` from each other, as little as it takes, in order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _start(groups[-1], wanted, gap, tall) < (
            _start(groups[-2], wanted, gap, tall) + gap * len(groups[-2])
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    spots = [0.0] * len(wanted)
    for group in groups:
        start = _start(group, wanted, gap, tall)
        for place, i in enumerate(group):
            spots[i] = start + gap * place
    return spots


def _start(group: Sequence[int], wanted: Sequence[float], gap: float, tall: float) -> float:
    """Return where the lowest label of a group is: the group is centred, and within the axes."""
    centred = sum(wanted[i] for i in group) / len(group) - gap * (len(group) - 1) / 2
    return min(max(centred, 0.0), max(tall - gap * (len(group) - 1), 0.0))


@cache
def _clipped(name: str) -> str:
    """Leave out the end of a name that is too long."""
    from matplotlib.textpath import TextPath

    shown = name if len(name) < LONGEST else f"{name[:LONGEST]}…"
    while len(shown) > 1 and TextPath((0, 0), shown, size=LABEL).get_extents().width > ROOM:
        shown = f"{shown.removesuffix('…')[:-1]}…"
    return shown
