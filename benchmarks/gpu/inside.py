"""All that this package takes from inside prunekit, in one place, since such modules move."""

from prunekit import measure
from prunekit.data import InputSpec
from prunekit.measure import find_device, latency, peak_bytes, peak_memory
from prunekit.models import build, resolve
from prunekit.provenance import device_name, processor, versions
from prunekit.semistructured import supported
from prunekit.zoo import DATA

__all__ = [
    "DATA",
    "InputSpec",
    "build",
    "device_name",
    "find_device",
    "hurry",
    "latency",
    "peak_bytes",
    "peak_memory",
    "processor",
    "resolve",
    "supported",
    "timing",
    "versions",
]


def timing() -> dict[str, object]:
    """Return how `latency` goes about it."""
    return {
        "warm_up": measure.WARM_UP,
        "repeats": list(measure.REPEATS),
        "enough_seconds": measure.ENOUGH_SECONDS,
    }


def hurry() -> None:
    """Time next to nothing from now on, for a dry run, whose figures nobody reads."""
    measure.REPEATS = (2, 2)
