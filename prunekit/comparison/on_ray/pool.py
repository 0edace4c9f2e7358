"""Pool: tasks on their way to Ray's workers, and what comes back of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ...errors import GridError
from .connect import named
from .share import Share

TICK_S = 1.0  # how often to look for new machines, and for cells that others have finished
PATIENCE_S = 60.0  # how long a cluster may be without any machine that can run a cell


class Pool:
    """Runs one function in workers, on a parcel that all calls have in common.

    Attributes:
        slots: How many calls can run at once.
    """

    def __init__(self, share: Share, ray: Any, function: Callable[..., Any], parcel: object):
        self.slots, self._share, self._ray, self._able_at = 0, share, ray, -math.inf
        self._task = ray.remote(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_retries=share.retries,
            retry_exceptions=False,
        )(function)
        self._parcel = ray.put(parcel)

    def start(self, *given: object) -> Any:
        """Make a call a task."""
        return self._task.remote(self._parcel, *given)

    def count_slots(self) -> None:
        """Find out how many cells can run at once; machines come and go.

        Raises:
            GridError: None can, and none came for a while.
        """
        self.slots, now = self._share.slots(self._ray.nodes()), time.monotonic()
        if self.slots:
            self._able_at = now
        elif now - self._able_at > PATIENCE_S:
            raise GridError(
                f"Ray has no machine with {_requests(self._share)}, which every cell is to get; "
                "ask for less with --cpus and --gpus, or add such a machine."
            )

    def ready(self, tasks: Iterable[Any]) -> list[Any]:
        """Wait a moment for a task to come back, and return those that have."""
        flying = list(tasks)
        if not flying:
            time.sleep(TICK_S)
            return []
        ready, _ = self._ray.wait(flying, num_returns=1, timeout=TICK_S)
        return list(ready)

    def fetch(self, task: Any) -> Any:
        """Return what a task returned, or say in a line why it did not."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.RayTaskError as error:  # before our own code was reached
            return (
                f"{named(error.cause)}: a worker could not start on it; make sure that all "
                "machines have the same packages."
            )
        except errors.RayError as error:  # what it says at length names machines
            tries = self._share.retries + 1
            return (
                f"{type(error).__name__}: its worker died, in {tries} of {tries} tries; see "
                "whether the machines have enough memory."
            )

    def cancel(self, tasks: Iterable[Any]) -> None:
        """Give up what is still on its way."""
        for task in tasks:
            # A cluster that was there before us would otherwise go on with it.
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task, force=True)


def _requests(share: Share) -> str:
    gpus = f" and {share.gpus:g} GPUs" if share.gpus else ""
    return f"{share.cpus:g} CPUs{gpus}"
