"""Models: each is built once, and pruned once to every size; every `prune` is timed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import Result, prune

from .inside import InputSpec, build, find_device, resolve
from .settings import Settings


@dataclass(frozen=True, order=True)
class Size:
    """To what a model is pruned.

    Attributes:
        ratio: The fraction of its MACs to remove.
        multiple: What kept sizes are multiples of.
    """

    ratio: float
    multiple: int


class Models:
    """The dense models and the pruned ones, on the device, in float32.

    Attributes:
        device: Where they are.
        pruned: What every `prune` to a size brought and how long it took, as plain data.
    """

    def __init__(self, settings: Settings):
        """Build nothing yet."""
        self.settings = settings
        self.device = find_device(settings.device)
        self.pruned: list[dict[str, Any]] = []
        self.dense = cache(self._dense)
        self.small = cache(self._small)
        self.halved = cache(self._halved)

    def example(self, name: str) -> Tensor:
        """Return one image of noise."""
        return InputSpec.of(self.dense(name)).example(self.settings.seed)

    def cut(self, name: str, ratio: float, multiple: int, **options: Any) -> Result:
        """Prune every axis alike, so that the shapes do not depend on random weights."""
        options = {"ratio": ratio, "multiple": multiple, "scope": "axis", **options}
        return prune(self.dense(name), "magnitude", by="macs", seed=self.settings.seed, **options)

    def with_ten_classes(self, name: str) -> nn.Module:
        """Return a dense model for the data set that comes with prunekit."""
        architecture = resolve(name)
        args = {**architecture.args, "num_classes": 10}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return replace(architecture, args=args).build().to(self.device)

    def _dense(self, name: str) -> nn.Module:
        return build(name, "random", self.settings.seed).model.to(self.device)

    def _halved(self, name: str) -> tuple[Result, Result]:
        """Make a model 2:4 and, beside it, slice it to the same MACs."""
        seed = self.settings.seed
        masked = prune(self.dense(name), "magnitude", granularity="2:4", by="macs", seed=seed)
        return masked, self.cut(name, masked.got, self.settings.multiple)

    def _small(self, name: str, size: Size) -> nn.Module:
        self.dense(name)  # not to be timed
        start = time.perf_counter()
        result = self.cut(name, size.ratio, size.multiple)
        self.pruned.append(
            {
                "model": name,
                "ratio": size.ratio,
                "multiple": size.multiple,
                "got": result.got,
                "params_before": result.before.params,
                "params": result.after.params,
                "macs_before": result.before.macs,
                "macs": result.after.macs,
                "parity": result.parity.difference / result.parity.scale,
                "whole_seconds": time.perf_counter() - start,
                "seconds": dict(result.seconds),
            }
        )
        return result.model
