"""Share: what of a cluster a cell is given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import GridError


@dataclass(frozen=True)
class Share:
    """What Ray sets apart for a cell, and how often it tries again.

    Attributes:
        cpus: Processors, above 0.
        gpus: GPUs: a whole number, or a part of one.
        retries: How often to run a cell again whose worker died.
    """

    cpus: float
    gpus: float
    retries: int

    def __post_init__(self) -> None:
        """Refuse what Ray could not set apart.

        Raises:
            GridError: A number is out of range.
        """
        if not 0 < self.cpus < math.inf:
            raise GridError(f"A task cannot do with {self.cpus:g} CPUs; expected more than 0.")
        if not 0 <= self.gpus < math.inf or (self.gpus > 1 and self.gpus % 1):
            raise GridError(
                f"A task cannot be given {self.gpus:g} GPUs; expected a whole number, or a part of "
                "one, such as 0.5."
            )
        if self.retries < 0:
            raise GridError(f"A task cannot be retried {self.retries} times; expected 0 or more.")

    def slots(self, nodes: Sequence[Mapping[str, Any]]) -> int:
        """Return how many cells some machines can run at once.

        Args:
            nodes: As Ray describes them.
        """
        return sum(self._fitting(node["Resources"]) for node in nodes if node["Alive"])

    def _fitting(self, resources: Mapping[str, float]) -> int:
        asked = {"CPU": self.cpus, "GPU": self.gpus}
        shares = [resources.get(name, 0) / amount for name, amount in asked.items() if amount]
        return math.floor(min(shares) + 1e-4)  # Ray, too, counts in ten-thousandths
