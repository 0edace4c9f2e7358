"""Randomness that is a function of what it is for, not of what was drawn before.

What happens to an image depends on the seed, the epoch and the image alone, and what happens in
an update on the seed and the update. So neither the number of workers or processes nor a run
that was cut off and resumed changes anything, and there is no state to keep.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def number(*key: object) -> int:
    """Return a number of 63 bits that the key determines."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw_for(*key: object, devices: bool = False) -> None:
    """Seed the generators of Python, NumPy and torch, and the devices' if asked to."""
    seed = number(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if devices:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def preserved() -> Iterator[None]:
    """Leave all global generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
