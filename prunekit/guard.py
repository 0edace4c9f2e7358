"""reading_only: lend tensors to a plug-in that may read them and nothing else.

Criteria and repairs are given the tensors of the model itself, since copies would double the
memory. While one of them runs, every operation of torch that would write to what it was lent is
stopped before it does. NumPy, and code of other languages, can write to the same memory without
torch; so the tensors are compared afterwards, by their version counters and a sample of their
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .errors import TamperedError

SAMPLE = 256  # values of each tensor that are compared; reading all of them costs a percent
Lent = Mapping[str, Tensor]


@contextmanager
def reading_only(who: str, lent: Callable[[], Lent]) -> Iterator[None]:
    """Stop what runs inside from writing to tensors.

    Args:
        who: What runs inside, as the subject of a sentence.
        lent: Returns the tensors, by what they are in words; called before and after.

    Raises:
        TamperedError: It wrote to one of them, or tried to, even if it went on after that.
    """
    given = lent()
    before = {what: _Seen(tensor) for what, tensor in given.items()}
    mode = _ReadOnly(who, given)
    failure: Exception | None = None
    try:
        with mode:
            yield
    except Exception as error:  # that may not be all it did
        failure = error
    now = lent()
    changed = next((what for what, seen in before.items() if not seen.holds(now.get(what))), None)
    if changed is not None:
        raise TamperedError(
            f"{who} changed {changed}, which it was given to read, so that what is in memory is "
            "not what it was; let it work on copies, and load the model again.",
            changed=True,
        ) from failure
    if mode.stopped is not None:  # whatever came of it afterwards
        raise mode.stopped
    if failure is not None:
        raise failure


class _Seen:
    """What one tensor was like."""

    def __init__(self, tensor: Tensor):
        self._tensor = tensor
        self._place = _place(tensor)
        self._sample = _sample(tensor)

    def holds(self, now: Tensor | None) -> bool:
        """Say whether this is the same tensor, and still like that."""
        if now is not self._tensor or _place(now) != self._place:
            return False
        return torch.equal(_sample(now), self._sample)


def _place(tensor: Tensor) -> tuple[object, ...]:
    # Tensors made in inference mode count no versions.
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, version


def _sample(tensor: Tensor) -> Tensor:
    """Copy the bytes of some values from all over a tensor; as bytes, NaN equals itself."""
    # An odd step visits all columns, where the rows are as long as a power of two.
    step = tensor.numel() // SAMPLE | 1
    values = tensor.detach()
    if values.is_contiguous():
        return (
            values.view(-1)[::step].clone(memory_format=torch.contiguous_format).view(torch.uint8)
        )
    picked = torch.arange(0, values.numel(), step, device=values.device)
    return values[torch.unravel_index(picked, values.shape)].view(torch.uint8)


class _ReadOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that would write to the memory of some tensors."""

    def __init__(self, who: str, lent: Lent):
        super().__init__()  # type: ignore[no-untyped-call]
        self._who = who
        self._owners = {_address(tensor): what for what, tensor in lent.items()}
        self._owners.pop(0, None)  # of tensors without values
        self.stopped: TamperedError | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for position, name in _written(func):
            given = args[position] if position < len(args) else kwargs.get(name)
            for tensor in tree_leaves(given):
                if isinstance(tensor, Tensor) and _address(tensor) in self._owners:
                    self._stop(func, self._owners[_address(tensor)])
        return func(*args, **kwargs)

    def _stop(self, func: Any, what: str) -> None:
        self.stopped = TamperedError(
            f"{self._who} tried to write to {what} ({func.__name__.partition('.')[0]}), which it "
            "was given to read; nothing was changed. Let it work on a copy: x.abs() makes one, "
            "x.abs_() writes."
        )
        raise self.stopped


@cache
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Return the position and the name of every argument that an operation writes to."""
    if not func._schema.is_mutable:
        return ()
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _address(tensor: Tensor) -> int:
    """Return where the memory of a tensor begins; 0 if it has none of its own."""
    plain = tensor.layout == torch.strided and tensor.device.type != "meta"
    return tensor.untyped_storage().data_ptr() if plain else 0
