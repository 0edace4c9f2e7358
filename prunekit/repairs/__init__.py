"""The built-in repairs, by name; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Repair

REPAIRS: Registry[Repair] = Registry(
    "repair",
    group="prunekit.repairs",
    builtin={
        "none": "prunekit.repairs.none:none",
        "bias": "prunekit.repairs.bias:bias",
        "lstsq": "prunekit.repairs.lstsq:lstsq",
        "reconstruct": "prunekit.repairs.reconstruct:reconstruct",
        "recalibrate": "prunekit.repairs.recalibrate:recalibrate",
    },
    kind="prunekit.repairs.base:Repair",
)
