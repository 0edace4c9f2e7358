"""The built-in adapters, by name; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..registry import Registry

if TYPE_CHECKING:
    from .base import Adapter

ADAPTERS: Registry[Adapter] = Registry(
    "adapter",
    group="prunekit.adapters",
    builtin={
        "vit": "prunekit.adapters.vit:vit",
        "swin": "prunekit.adapters.swin:swin",
        "convnext": "prunekit.adapters.convnext:convnext",
        "features": "prunekit.adapters.features:features",
        "auto": "prunekit.auto.adapter:auto",
    },
    kind="prunekit.adapters.base:Adapter",
)
