"""Shapes: the meta device, asked once for every operation on every shape."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST = 10_000  # operations to remember; a large model has a few hundred

Kind = tuple[torch.Size, tuple[int, ...], torch.dtype]  # all that matters of a meta tensor


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, operations on the meta device give what an equal one gave before.

    Torch works out most shapes in Python, which takes longer than many a model takes to compute.
    But a model does the same things in every block.
    """

    _known: ClassVar[dict[Hashable, list[Kind]]] = {}  # nothing but shapes matters to shapes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled under it, and making sure takes longer than its work

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, or make what it would return."""
        return self.looked_up(func, args, kwargs or {})

    def looked_up(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do the same, for those that do more around it."""
        if not _returns_new_tensors(func):
            return func(*args, **kwargs)
        try:
            key = (func, _described(args), _described(tuple(kwargs.items())))
            known = self._known.get(key)
        except (_Unknown, TypeError):  # TypeError: something that cannot be hashed
            return func(*args, **kwargs)
        if known is None:
            result = func(*args, **kwargs)
            if not _returns_what_it_got(result, (args, kwargs)):  # as dropout may
                self._remember(key, result)
            return result
        made = tuple(_made(kind) for kind in known)
        return made if len(func._schema.returns) > 1 else made[0]

    def _remember(self, key: Hashable, result: object) -> None:
        tensors = result if isinstance(result, tuple) else (result,)
        if len(self._known) >= MOST:
            self._known.clear()
        with suppress(_Unknown):
            self._known[key] = [_kind(tensor) for tensor in tensors]


class _Unknown(Exception):
    """Something other than a plain tensor on the meta device, or the arguments that go with it."""


@cache
def _returns_new_tensors(func: Any) -> bool:
    """Say whether an operation returns tensors and nothing else, and writes to no other."""
    schema = func._schema
    values = [*schema.arguments, *schema.returns]
    return all(value.alias_info is None for value in values) and all(
        str(value.type) == "Tensor" for value in schema.returns
    )


def _returns_what_it_got(result: object, given: object) -> bool:
    """Say whether any tensor among what an operation returns is one that it was given."""
    known = {x.untyped_storage()._cdata for x in tree_leaves(given) if isinstance(x, Tensor)}
    made = (x for x in tree_leaves(result) if isinstance(x, Tensor))
    return any(x.untyped_storage()._cdata in known for x in made)


def _described(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return _kind(value)
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    return type(value), value  # for 1, 1.0 and True are equal


def _kind(tensor: object) -> Kind:
    if not isinstance(tensor, Tensor) or type(tensor) not in (Tensor, nn.Parameter):
        raise _Unknown
    if not tensor.is_meta or tensor.layout != torch.strided or tensor.is_complex():
        raise _Unknown
    return tensor.shape, tensor.stride(), tensor.dtype


def _made(kind: Kind) -> Tensor:
    shape, stride, dtype = kind
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


@cache
def is_composite(func: Any) -> bool:
    """Say whether an operation is made of others; in inference mode, these come here whole."""
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))
