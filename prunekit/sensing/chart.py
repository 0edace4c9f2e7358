"""drawn: a sensitivity as an SVG: every axis a row, every ratio a mark."""

from __future__ import annotations

import io

from .measure import Sensitivity

ROW = 0.22  # inches
COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#7a0177", "#49006a")  # light to dark, for more removed
FLOOR = 1e-6  # nats; less is drawn as this


def drawn(found: Sensitivity) -> str:
    """Return the divergence from the dense model, on a logarithmic scale, axis by axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(effect.axis for effect in found.effects))
    rows = {name: number for number, name in enumerate(names)}
    ratios = sorted({effect.asked for effect in found.effects})
    figure = Figure(figsize=(8, 1.2 + ROW * len(names)), layout="constrained")
    axes = figure.subplots()
    for number, ratio in enumerate(ratios):
        there = [effect for effect in found.effects if effect.asked == ratio]
        axes.scatter(
            [max(effect.divergence, FLOOR) for effect in there],
            [rows[effect.axis] for effect in there],
            color=COLOURS[min(number, len(COLOURS) - 1)],
            label=f"{ratio:.0%} of its slices removed",
            zorder=3,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_xlabel(f"divergence from the dense model (nats), {found.images} training images")
    recipe = found.recipe
    repair = "" if recipe["repair"] == "none" else f" and {recipe['repair']}"
    title = f"{recipe['arch']}: each axis cut alone, by {recipe['criterion']}{repair}"
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(ratios), fontsize=8, frameon=False)
    with rc_context({"svg.fonttype": "none"}), io.StringIO() as page:  # text that can be found
        figure.savefig(page, format="svg", metadata={"Date": None})
        return page.getvalue()
