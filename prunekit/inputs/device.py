"""Which device a name stands for."""

from __future__ import annotations

import torch

from ..errors import DeviceError


def find_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device that is there.

    Raises:
        DeviceError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise DeviceError(
            f"The device {name!r} is not there; expected auto, cpu or an existing cuda."
        )
    return torch.device(name)
