"""Mended: what came of repairing a model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Repaired:
    """How far one layer is from the dense model's.

    Attributes:
        before, after: Mean squared error of its outputs on the calibration images, relative to
            the variance of the dense outputs; for queries and keys that of their products.
    """

    before: float
    after: float


@dataclass
class Mended:
    """What came of repairing a model.

    Attributes:
        layers: Layer, or axis of queries and keys, to what it gained, in order.
        blocks: Block to what it gained, on images that its repair was not fitted on, in order.
        norms: BatchNorm to how far its running mean was off, in running standard deviations: the
            root of the mean square over its channels.
        left: Layer that lost inputs and could not be repaired, to the reason.
    """

    layers: dict[str, Repaired] = field(default_factory=dict)
    blocks: dict[str, Repaired] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
