"""The drawings of Figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prunekit.comparison.pages.theme import PALETTE

LIGHT = {name: pair[0] for name, pair in PALETTE.items()}  # legible on white, wherever it is shown
COLOURS = {"QKV-M": LIGHT["s0"], "PRJ-M": LIGHT["s1"], "MLP-M": LIGHT["s2"]}
REMOVED = "#f1efea"
LOOK = {
    "svg.hashsalt": "prunekit",  # the same bytes every time
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["ink"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
}
DPI = 100
TALL = 1024  # pixels of all masks of a column, about


def draw_kept(
    layers: Sequence[Mapping[str, Any]],
    thresholds: Mapping[str, float],
    kept: float,
    title: str,
    path: Path,
) -> None:
    """Draw a bar per layer in network order, coloured by module, as SVG.

    Args:
        layers: With `name`, `module` and `kept`, the fraction that is.
        thresholds: Module to the highest score that was removed.
        kept: The fraction that is kept of each module.
        title: Above it.
        path: Where to write it.
    """
    places, blocks = _places([layer["name"] for layer in layers])
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        axes = figure.subplots()
        for module, threshold in thresholds.items():
            own = [n for n, layer in enumerate(layers) if layer["module"] == module]
            axes.bar(
                [places[n] for n in own],
                [100 * layers[n]["kept"] for n in own],
                width=0.86,
                color=COLOURS[module],
                label=f"{module}, threshold {threshold:.2e}",
            )
        axes.axhline(100 * kept, color=LIGHT["ink"], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(min(places) - 1, max(places) + 1)
        axes.set_ylim(0, 100)
        axes.set_ylabel("kept weights, %")
        axes.set_xticks([place for _, place in blocks], [name for name, _ in blocks])
        axes.set_xlabel("stage.block; of each the layers qkv, proj, fc1, fc2")
        axes.tick_params(length=0)
        axes.grid(axis="y", color=LIGHT["line"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_title(title, loc="left", fontsize=11, pad=12)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _places(names: Sequence[str]) -> tuple[list[float], list[tuple[str, float]]]:
    """Return where each bar stands, blocks and stages set apart, and each block's name and middle.

    A layer is called like `layers.0.blocks.1.mlp.fc1.weight`.
    """
    places: list[float] = []
    blocks = []
    at, stage_before = 0.0, None
    for (stage, block), own in groupby(names, key=lambda name: tuple(name.split(".")[1:4:2])):
        count = len(list(own))
        if stage_before is not None:
            at += 0.8 if stage == stage_before else 2.2
        stage_before = stage
        places += [at + n for n in range(count)]
        blocks.append((f"{int(stage) + 1}.{int(block) + 1}", at + (count - 1) / 2))
        at += count
    return places, blocks


def draw_masks(masks: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the masks of a block's four layers, every weight a square of whole pixels, as PNG.

    They stand in three columns of equal height: qkv above proj, fc1, and fc2 transposed.

    Args:
        masks: By the names in the block, each (out, in) bool.
        title: Above it.
        path: Where to write it.
    """
    width = masks["attn.qkv"].shape[1]
    pixels = max(1, round(TALL / (4 * width)))  # of a weight
    canvas = _Canvas(width * pixels)
    columns = [
        [("attn.qkv", "QKV-M"), ("attn.proj", "PRJ-M")],
        [("mlp.fc1", "MLP-M")],
        [("mlp.fc2", "MLP-M")],
    ]
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=canvas.inches, dpi=DPI)
        for number, column in enumerate(columns):
            top = 0
            for name, module in column:
                own = masks[name].T if name == "mlp.fc2" else masks[name]
                high = len(own) * pixels
                picture = figure.add_axes(canvas.box(number, top, own.shape[1] * pixels, high))
                colours = np.array([to_rgb(REMOVED), to_rgb(COLOURS[module])])
                picture.imshow(colours[own.astype(int)], interpolation="none", aspect="auto")
                picture.set_axis_off()
                _profile(figure, canvas, number, top, own, pixels, COLOURS[module])
                _label(figure, canvas, number, top, name, own)
                if name == "attn.qkv":
                    _parts(figure, canvas, top, high)
                top += high + canvas.GAP
        figure.text(*canvas.at(canvas.LEFT, 34), title, fontsize=13, va="center")
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


class _Canvas:
    """Where things are, in pixels from the upper left, as matplotlib wants them."""

    LEFT, TOP, BOTTOM, RIGHT = 84, 96, 24, 40
    PROFILE, BETWEEN, GAP = 84, 46, 40

    def __init__(self, column: int):
        self.column = column
        self.wide = self.LEFT + self.RIGHT + 3 * (column + self.PROFILE) + 2 * self.BETWEEN
        self.high = self.TOP + self.BOTTOM + 4 * column + self.GAP
        self.inches = (self.wide / DPI, self.high / DPI)

    def left(self, number: int) -> int:
        return self.LEFT + number * (self.column + self.PROFILE + self.BETWEEN)

    def at(self, x: float, y: float) -> tuple[float, float]:
        return x / self.wide, 1 - y / self.high

    def box(self, number: int, top: int, wide: int, high: int, right: int = 0) -> Any:
        """Return a rectangle below the headings; `right` moves it to the right."""
        x, y = self.at(self.left(number) + right, self.TOP + top + high)
        return x, y, wide / self.wide, high / self.high


def _profile(
    figure: Figure, canvas: _Canvas, number: int, top: int, mask: Any, pixels: int, colour: str
) -> None:
    """Draw beside a mask what is kept of each of its rows."""
    wide = canvas.PROFILE - 8
    box = canvas.box(number, top, wide, len(mask) * pixels, right=canvas.column + 8)
    axes = figure.add_axes(box)
    axes.barh(np.arange(len(mask)), mask.mean(1), height=1.0, color=colour, alpha=0.55, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(mask) - 0.5, -0.5)
    axes.set_xticks([0, 1], ["0", "100 %"] if top == 0 else ["", ""], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, pad=2)
    axes.spines[["top", "bottom", "right"]].set_visible(False)


def _label(figure: Figure, canvas: _Canvas, number: int, top: int, name: str, mask: Any) -> None:
    short = {"mlp.fc2": "fc2, transposed"}.get(name, name.partition(".")[2])
    text = f"{short}: {100 * mask.mean():.0f} % kept"
    x, y = canvas.at(canvas.left(number), canvas.TOP + top - (22 if top == 0 else 12))
    figure.text(x, y, text, fontsize=10, va="center")


def _parts(figure: Figure, canvas: _Canvas, top: int, high: int) -> None:
    """Name the queries, keys and values beside the rows they are."""
    for number, name in enumerate(("queries", "keys", "values")):
        y = canvas.TOP + top + high * (number + 0.5) / 3
        figure.text(*canvas.at(canvas.LEFT - 12, y), name, fontsize=10, ha="right", va="center")
        if number:
            line_y = canvas.TOP + top + high * number / 3
            (x0, y0), (x1, _) = (canvas.at(x, line_y) for x in (canvas.LEFT - 62, canvas.LEFT - 4))
            figure.add_artist(Line2D([x0, x1], [y0, y0], color=LIGHT["muted"], linewidth=0.8))
