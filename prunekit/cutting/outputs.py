"""What a model computes: every tensor of its output, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..errors import AdapterError
from ..tracing.checkpointing import without_checkpointing
from ..tracing.copies import in_precision

Outputs = dict[str, Tensor]  # by name, such as "output['logits']"; a single tensor is "output"


@torch.inference_mode()
def outputs_of(model: nn.Module, example: Tensor, dtype: torch.dtype = torch.float32) -> Outputs:
    """Run a model on the first of some inputs.

    Args:
        model: Put in evaluation mode; one of another precision is copied.
        example: One batch of inputs.
        dtype: The precision to run it in.

    Returns:
        All floating-point tensors of the output, in that precision.

    Raises:
        AdapterError: There are none.
    """
    own = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    if own <= {dtype}:
        x = example[:1].to(next(model.parameters()).device)
        model, x = model.eval(), x.to(dtype) if x.is_floating_point() else x
    else:
        model, x = in_precision(model, example[:1], dtype)
    with _all_digits(), without_checkpointing(model):
        output = model(x)
    found = {
        f"output{keystr(path)}": leaf.to(dtype)
        for path, leaf in tree_flatten_with_path(output)[0]
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }
    if not found:
        raise AdapterError(
            f"{type(model).__name__} returns {type(output).__name__} without any floating-point "
            "tensor, so nothing can be compared; return a tensor, or several in a tuple, list or "
            "dictionary."
        )
    return found


@contextmanager
def _all_digits() -> Iterator[None]:
    """Keep TensorFloat-32 and bfloat16, which keep three digits, out of float32 products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        # `flags` would switch cuDNN off unless told otherwise.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
