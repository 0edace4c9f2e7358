"""The architectures that are tried: timm's, and torchvision's for classes and segments."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

TORCHVISION = "torchvision:"
SEGMENTS = ("deeplabv3", "fcn", "lraspp")
INPUT = (3, 224, 224)  # of torchvision's models
LARGER = {"inception_v3": (3, 299, 299)}  # whose auxiliary head needs it


def all_names(pattern: str = "") -> list[str]:
    """Return all names that contain a match of a regular expression."""
    import timm
    import torchvision
    from torchvision.models import list_models, segmentation

    classes = list_models(module=torchvision.models)
    segments = list_models(module=segmentation)
    names = timm.list_models() + [TORCHVISION + name for name in (*classes, *segments)]
    return [name for name in names if re.search(pattern, name)]


def module_of(name: str) -> str:
    """Return the name of the module that defines an architecture."""
    if name.startswith(TORCHVISION):
        from torchvision.models import get_model_builder

        builder = get_model_builder(name.removeprefix(TORCHVISION))
        return TORCHVISION + builder.__module__.rpartition(".")[2]
    from timm.models import is_model

    assert is_model(name), name
    from timm.models._registry import _model_to_module

    return str(_model_to_module[name])


def build(name: str, **arguments: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """Build an architecture with random weights; return it, and the size of its images."""
    if name.startswith(TORCHVISION):
        from torchvision.models import get_model

        plain = name.removeprefix(TORCHVISION)
        more = {"weights_backbone": None} if plain.startswith(SEGMENTS) else {}
        if plain in ("googlenet", "inception_v3"):
            more["init_weights"] = False
        return get_model(plain, weights=None, **more, **arguments), LARGER.get(plain, INPUT)
    import timm

    model = timm.create_model(name, **arguments)
    return model, model.pretrained_cfg["input_size"]
