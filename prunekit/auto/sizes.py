"""Sizes: the numbers of channels that models of timm keep about themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .coupled import Place
from .following import Follower

CACHED = ("num_features", "head_hidden_size", "in_features", "embed_dim")


class Sizes:
    """Which of a model's cached numbers have to change with its parameters."""

    def __init__(self, model: nn.Module):
        """Remember what a model has."""
        self._before, self._pooled = _read_by_classifier(model), _read_by_head(model)
        self.features: Mapping[str, Sequence[Place]] = {}

    def found(self, follower: Follower) -> None:
        """Take note of which parameters are as wide as the features that a model returns."""
        owners = {name: follower.coupled.owners(n) for name, n in follower.channels.items()}
        self.features = {name: places for name, places in owners.items() if places}

    def reset_(self, model: nn.Module) -> None:
        """Put right what a smaller model has cached."""
        for info in feature_info(model):
            places = self.features.get(info["module"])
            if places:
                own = (_tensor(model, place.tensor).shape[place.dim] for place in places)
                info["num_chs"] = sum(own)
        self._reset_classifier_(model)
        told: Any = vars(model).get("num_features")
        if told is not None and told == self._pooled != self._before:
            model.num_features = _read_by_head(model)  # type: ignore[assignment]

    def _reset_classifier_(self, model: nn.Module) -> None:
        after = _read_by_classifier(model)
        if self._before is None or after is None or after == self._before:
            return
        parts: list[Any] = [model, *model.children()]
        for part in parts:
            for name in CACHED:
                if vars(part).get(name) == self._before and not isinstance(part, nn.Linear):
                    setattr(part, name, after)


def feature_info(model: nn.Module) -> list[dict[str, Any]]:
    """Return what a model of timm says of the features of its stages."""
    found = getattr(model, "feature_info", None)
    return [info for info in found if info.get("module")] if isinstance(found, list) else []


def _tensor(model: nn.Module, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _read_by_head(model: nn.Module) -> int | None:
    """Return how many pooled features a convolution reads in front of the classifier, if any."""
    layer = getattr(model, "conv_head", None)
    return int(layer.weight.shape[1]) if isinstance(layer, nn.Conv2d) else None


def _read_by_classifier(model: nn.Module) -> int | None:
    """Return how many features the classifier reads; None if there is none."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    name = next(iter(names), None) if isinstance(names, list | tuple) else names
    modules = dict(model.named_modules())
    layer: Any = modules.get(name) if isinstance(name, str) else None
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return int(layer.weight.shape[1])
    return None
