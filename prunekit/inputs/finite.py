"""check_finite: weights that are numbers."""

from __future__ import annotations

from torch import nn

from ..errors import WeightsError


def check_finite(model: nn.Module, what: str) -> None:
    """Make sure that every parameter and buffer is a finite number.

    Args:
        model: Looked at, and left alone.
        what: What to call it in the message.

    Raises:
        WeightsError: One is not; the first is named.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"{what} has {bad:,} weights in {name!r} that are infinite or not a number; mend "
                "them, or use other weights."
            )
