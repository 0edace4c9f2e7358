"""Sizes: the numbers of channels that models of timm keep about themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

CACHED = ("num_features", "head_hidden_size", "in_features", "embed_dim")


class Sizes:
    """Which of a model's cached numbers are the number of features that its classifier reads."""

    def __init__(self, model: nn.Module):
        """Remember what a model has."""
        self._before = _read_by_classifier(model)

    def reset_(self, model: nn.Module) -> None:
        """Put right what a smaller model has cached."""
        after = _read_by_classifier(model)
        if self._before is None or after is None or after == self._before:
            return
        parts: list[Any] = [model, *model.children()]
        for part in parts:
            for name in CACHED:
                if vars(part).get(name) == self._before and not isinstance(part, nn.Linear):
                    setattr(part, name, after)


def _read_by_classifier(model: nn.Module) -> int | None:
    """Return how many features the classifier reads; None if there is none."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    name = names[0] if isinstance(names, list | tuple) else names
    modules = dict(model.named_modules())
    layer: Any = modules.get(name) if isinstance(name, str) else None
    if isinstance(layer, nn.Linear | nn.Conv2d):
        return int(layer.weight.shape[1])
    return None
