"""Watched: which module runs while an operation does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..tracing.shapes import Shapes


class Watched(Shapes):  # type: ignore[no-untyped-call]
    """Keeps track of which modules run, each by the first of its names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._running = [""]

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Have every module say when it begins and when it ends."""
        handles = []
        for name, module in model.named_modules():
            handles += [
                module.register_forward_pre_hook(self._enter(name), prepend=True),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        return lambda *_: self._running.append(name)

    def _leave(self, *_: object) -> None:
        self._running.pop()
