"""Watch: names each part of the work, and times it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..shared import Shared


class Watch:
    """Names each part of the work as it starts, and adds up how long it takes.

    What was at hand already counts as long as it took to find out, so that the times of runs can
    be compared, whichever came first.
    """

    def __init__(self, on_step: Callable[[str], None], shared: Shared):
        self._on_step = on_step
        self._shared = shared
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._on_step(name)
        start, saved = time.perf_counter(), self._shared.saved
        yield
        taken = time.perf_counter() - start + self._shared.saved - saved
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
