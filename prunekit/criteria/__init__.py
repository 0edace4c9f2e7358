"""The built-in criteria, by name; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Criterion

CRITERIA: Registry[Criterion] = Registry(
    "criterion",
    group="prunekit.criteria",
    builtin={
        "random": "prunekit.criteria.random:random",
        "magnitude": "prunekit.criteria.magnitude:magnitude",
        "lamp": "prunekit.criteria.lamp:lamp",
        "dimap": "prunekit.criteria.dimap:dimap",
        "fpgm": "prunekit.criteria.fpgm:fpgm",
        "taylor": "prunekit.criteria.taylor:taylor",
        "fisher": "prunekit.criteria.fisher:fisher",
        "wanda": "prunekit.criteria.wanda:wanda",
        "flap": "prunekit.criteria.flap:flap",
        "vbp": "prunekit.criteria.vbp:vbp",
        "obs": "prunekit.criteria.obs:obs",
        "osscar": "prunekit.criteria.osscar:osscar",
        "kfac": "prunekit.criteria.kfac:kfac",
        "influence": "prunekit.criteria.influence:influence",
    },
    kind="prunekit.criteria.base:Criterion",
)
