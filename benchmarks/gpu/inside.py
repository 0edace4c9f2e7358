"""All that this package takes from inside prunekit, in one place, since such modules move."""

from prunekit.inputs.architectures import build, resolve
from prunekit.inputs.device import find_device
from prunekit.inputs.feed import InputSpec
from prunekit.inputs.zoo import DATA
from prunekit.measuring import latency as clock
from prunekit.measuring.latency import latency
from prunekit.measuring.memory import peak_bytes, peak_memory
from prunekit.measuring.provenance import device_name, processor, versions
from prunekit.weights.semistructured import supported

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
        "warm_up": clock.WARM_UP,
        "repeats": list(clock.REPEATS),
        "enough_seconds": clock.ENOUGH_SECONDS,
    }


def hurry() -> None:
    """Time next to nothing from now on, for a dry run, whose figures nobody reads."""
    clock.REPEATS = (2, 2)
