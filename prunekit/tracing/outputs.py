"""What a model returns: a tensor, or tensors in whatever holds them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..errors import AdapterError

DEEPEST = 4  # objects in objects


def tensors_by_name(output: object, name: str = "output", depth: int = 0) -> dict[str, Tensor]:
    """Return all tensors of an output: in tuples, lists, dictionaries, and attributes of objects.

    Args:
        output: What a model returned.
        name: What to call it.
        depth: How many objects it lies in.

    Returns:
        By name, such as "output['logits']"; a single tensor is "output".
    """
    found = {}
    for path, leaf in tree_flatten_with_path(output)[0]:
        here = f"{name}{keystr(path)}"
        if isinstance(leaf, Tensor):
            found[here] = leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module) and depth < DEEPEST:
            for attribute, value in vars(leaf).items():
                found.update(tensors_by_name(value, f"{here}.{attribute}", depth + 1))
    return found


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
