"""What a run leaves in its directory to be looked at: its history, and a picture of that."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Progress
from .curve import learning_curve
from .history import CURVE, HISTORY, lines, replace_file


def write_records(workdir: Path, progress: Progress, *, drawn: bool = True) -> None:
    """Write down every epoch so far, if there are any.

    Args:
        workdir: Where to.
        progress: What to write down.
        drawn: Whether the learning curve is drawn again, too, which takes a moment.
    """
    if not progress.history:
        return
    replace_file(workdir / HISTORY, lines(progress.history))
    if drawn:
        picture = learning_curve(
            progress.history, progress.start_top1, progress.best_epoch, workdir.stem
        )
        replace_file(workdir / CURVE, picture)
