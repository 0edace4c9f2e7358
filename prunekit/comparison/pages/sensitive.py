"""What cutting each axis alone costs, drawn axis by axis."""

from __future__ import annotations

from ..findings import Sensed
from .theme import colour, drawing, inline

WIDTH, ROW, TOP, BOTTOM = 520.0, 12.0, 6.0, 44.0  # in points
HUES = ("s0", "s1", "s2", "s3", "s4")
FLOOR = 1e-6  # nats; less is drawn as this
STEPS = 20  # that fractions are rounded to, to share a hue


def described(found: Sensed) -> str:
    """Say what the chart shows, for those who do not see it."""
    dearest = max(found.cuts, key=lambda cut: cut.divergence)
    freest = min(found.cuts, key=lambda cut: cut.divergence)
    return (
        f"{found.arch}: divergence from the dense model where one axis is cut alone. Dearest: "
        f"{dearest.axis} without {dearest.gone:.0%}, {dearest.divergence:.1e} nats. Freest: "
        f"{freest.axis} without {freest.gone:.0%}, {freest.divergence:.1e} nats."
    )


def draw_sensed(found: Sensed, prefix: str) -> str:
    """Draw a mark for each cut, on a logarithmic scale."""
    from matplotlib.figure import Figure

    rows = {name: row for row, name in enumerate(dict.fromkeys(cut.axis for cut in found.cuts))}
    shares = sorted({round(STEPS * cut.gone) / STEPS for cut in found.cuts})
    height = TOP + BOTTOM + ROW * len(rows)
    with drawing():
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        room = 1 - (TOP + BOTTOM) / height
        axes = figure.add_axes((0.36, BOTTOM / height, 0.62, room))
        axes.patch.set_visible(False)
        axes.spines[["left", "right", "top"]].set_visible(False)
        for number, share in enumerate(shares):
            cuts = [cut for cut in found.cuts if round(STEPS * cut.gone) / STEPS == share]
            axes.plot(
                [max(cut.divergence, FLOOR) for cut in cuts],
                [rows[cut.axis] for cut in cuts],
                linestyle="none", marker="o", markersize=4, color=colour(HUES[number % len(HUES)]),
                label=f"{share:.0%} gone",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), list(rows), fontsize=7.5)
        axes.tick_params(length=0, labelsize=7.5)
        axes.grid(color=colour("line"), linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("divergence, nats", fontsize=8, color=colour("muted"))
        figure.legend(loc="lower center", ncols=len(shares), fontsize=7.5, frameon=False)
        return inline(figure, described(found), prefix)
