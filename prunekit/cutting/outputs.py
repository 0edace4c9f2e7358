"""What a model computes: every tensor of its output, by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..arguments import Inputs, batch_of, call, mapped
from ..errors import AdapterError
from ..tracing.checkpointing import without_checkpointing
from ..tracing.copies import in_precision
from ..tracing.outputs import tensors_by_name

Outputs = dict[str, Tensor]  # by name, see `tensors_by_name`


@torch.inference_mode()
def outputs_of(
    model: nn.Module, example: Inputs, dtype: torch.dtype = torch.float32, part: str = ""
) -> Outputs:
    """Run a model on the first of some inputs.

    Args:
        model: Put in evaluation mode; one of another precision is copied.
        example: One batch of inputs.
        dtype: The precision to run it in.
        part: A module whose outputs, when it runs first, are looked at too.

    Returns:
        All floating-point tensors of the outputs, in that precision.

    Raises:
        AdapterError: There are none.
    """
    own = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
    if own <= {dtype}:
        device = next(model.parameters()).device
        model, x = model.eval(), mapped(lambda x: _placed(x, device, dtype), batch_of(example))
    else:
        model, x = in_precision(model, batch_of(example), dtype)
    with _all_digits(), without_checkpointing(model), _noted(model, part) as noted:
        output = call(model, x)
    found = {
        name: tensor.to(dtype)
        for name, tensor in (noted | tensors_by_name(output)).items()
        if tensor.is_floating_point()
    }
    if not found:
        raise AdapterError(
            f"{type(model).__name__} returns {type(output).__name__} without any floating-point "
            "tensor, so nothing can be compared; return a tensor, or several in a tuple, list or "
            "dictionary."
        )
    return found


@contextmanager
def _noted(model: nn.Module, part: str) -> Iterator[Outputs]:
    """Within it, take note of what a part returns the first time; of no part, of nothing."""
    noted: Outputs = {}
    if not part:
        yield noted
        return

    def note(_: nn.Module, args: object, output: object) -> None:
        if not noted:
            noted.update(tensors_by_name(output, f"output of {part}"))

    handle = model.get_submodule(part).register_forward_hook(note)
    try:
        yield noted
    finally:
        handle.remove()


def _placed(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return x.to(device, dtype if x.is_floating_point() else x.dtype)


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
