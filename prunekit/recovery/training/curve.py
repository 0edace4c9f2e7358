"""The learning curve, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from .history import Epoch

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"  # told apart by all eyes


def learning_curve(history: Sequence[Epoch], start_top1: float, best_epoch: int, title: str) -> str:
    """Draw the loss and the validation accuracy of every epoch, as SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({"svg.hashsalt": "prunekit", "font.size": 10}):
        figure = Figure(figsize=(7, 5), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        epochs = [entry.epoch for entry in history]
        marker = "o" if len(epochs) <= 40 else None
        accuracies = [start_top1, *(entry.val_top1 for entry in history)]
        top.plot([0, *epochs], accuracies, color=BLUE, marker=marker, markersize=4)
        top.plot([best_epoch], [accuracies[best_epoch]], "o", color=ORANGE, markersize=8, zorder=3)
        kept = f"kept: epoch {best_epoch}, {accuracies[best_epoch]:.2f} %"
        top.set_title(kept, color=ORANGE, loc="right", fontsize=10)
        top.set_title(title, loc="left", fontsize=10)
        top.set_ylabel("validation top-1 (%)")
        losses = [entry.train_loss for entry in history]
        bottom.plot(epochs, losses, color=BLUE, marker=marker, markersize=4)
        bottom.set_ylabel("training loss")
        bottom.set_xlabel("epoch (0: before training)")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        rate = bottom.twinx()
        rate.plot(epochs, [entry.lr for entry in history], color=GREY, linestyle=":")
        rate.set_ylabel("learning rate (dotted)", color=GREY)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        for axes in (top, bottom):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
