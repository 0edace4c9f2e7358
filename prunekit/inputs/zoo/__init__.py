"""Small reference models, trained on Fashion-MNIST by benchmarks/train_zoo.py."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError
from ...files.reading import read_json

if TYPE_CHECKING:
    from torch import nn

    from ...files.card import Card

HERE = Path(__file__).parent
DATA = "fashion-mnist-mini"
TIMM = "timm.models."


def names() -> list[str]:
    """Return the names of all models in the zoo."""
    return sorted(path.stem for path in HERE.glob("*.json"))


def card(name: str) -> Card:
    """Return a model's card: class, arguments, data, recipe, seed, accuracy, versions.

    Raises:
        ArtifactError: It is not readable.
    """
    from ...files.card import Card

    return read_json(HERE / f"{name}.json", Card, advice="install prunekit again")


def build(name: str) -> nn.Module:
    """Return a model of the zoo with random weights, in evaluation mode."""
    return build_from(card(name))


def build_from(card: Mapping[str, Any]) -> nn.Module:
    """Instantiate the timm class of a card, and tell it what images it will see.

    Raises:
        ArtifactError: The card names anything but a model class of timm. Cards come with saved
            results, and what is loaded must not be able to run code of its own.
    """
    cls = _class(card["class"])
    args = {
        name: _class(value) if isinstance(value, str) and value.startswith(TIMM) else value
        for name, value in copy.deepcopy(card["args"]).items()  # timm empties what describes blocks
    }
    model: Any = cls(**args)
    model.pretrained_cfg = {key: card[key] for key in ("input_size", "mean", "std")}
    return model.eval()  # type: ignore[no-any-return]


def _class(path: str) -> type[nn.Module]:
    """Return a class of timm; some models take that of their blocks as an argument.

    Raises:
        ArtifactError: It is anything else.
    """
    from torch import nn

    module, _, name = path.rpartition(".")
    home = importlib.import_module(module) if module.startswith(TIMM) else None
    found: object = getattr(home, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ArtifactError(f"A card names the class {path!r}; expected a model of timm.")
    return found


def weights(name: str) -> Path:
    """Return the file of a model's trained weights, float16 safetensors."""
    return HERE / f"{name}.safetensors"
