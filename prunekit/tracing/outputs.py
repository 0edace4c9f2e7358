"""What a model returns: a tensor, or tensors in a tuple, a list or a dictionary."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..errors import AdapterError


def logits_of(output: object) -> Tensor:
    """Return the logits among what a model returns, (images, classes).

    That is the output itself, what a dictionary calls `logits`, or the first tensor of two
    dimensions in a tuple or list.

    Raises:
        AdapterError: There are none.
    """
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    candidates = output if isinstance(output, tuple | list) else [output]
    for candidate in candidates:
        if isinstance(candidate, Tensor) and candidate.dim() == 2:
            return candidate
    raise AdapterError(
        f"The model returns a {type(output).__name__} without logits, (images, classes), to "
        "compare with labels; leave out the evaluation and what needs labels."
    )
