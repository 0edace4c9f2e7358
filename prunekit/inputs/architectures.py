"""An architecture name -> a model with weights."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.finding import usable
from ..errors import RegistryError, RequestError, WeightsError
from ..registry import unknown
from . import zoo
from .checkpoints import Checkpoint, read_checkpoint
from .fitting import fit
from .pretrained import build_pretrained
from .weights_file import printable

ARGUMENTS = {"img_size", "in_chans", "num_classes"}  # what a factory of timm is told


@dataclass(frozen=True)
class Architecture:
    """How to build a model again, weights aside.

    Attributes:
        name: What it was asked for as, such as "swin_t".
        timm: The name timm knows it by; None for a model of the zoo.
        args: Arguments of timm's factory, or of the class of the zoo's card.
        card: The zoo's card, as far as it is needed to build the model.
    """

    name: str
    timm: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None

    def build(self) -> nn.Module:
        """Return the model with random weights, in evaluation mode.

        Raises:
            RegistryError: timm has not registered that name.
            RequestError: The factory would be told what could make it read files or go online.
        """
        if self.card is not None:
            return zoo.build_from({**self.card, "args": self.args})
        import timm

        if not _is_registered(self.timm):
            raise RegistryError(_unregistered(self.timm))
        others = sorted(self.args.keys() - ARGUMENTS)
        if others:
            raise RequestError(
                f"{self.name} is built with {', '.join(others)}; expected nothing but "
                f"{', '.join(sorted(ARGUMENTS))}."
            )
        model: nn.Module = timm.create_model(self.timm, pretrained=False, **self.args)
        return model.eval()


@dataclass(frozen=True)
class Built:
    """A model, how it was built, and where its weights are from.

    Attributes:
        model: In evaluation mode, float32.
        architecture: How to build it again.
        weights: `pretrained`, `random`, `zoo` or a file's name.
        warnings: What the user must know about those weights.
    """

    model: nn.Module
    architecture: Architecture
    weights: str
    warnings: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Built:
        """Return it on a device."""
        return replace(self, model=self.model.to(device))


def aliases() -> dict[str, str]:
    """Return all short architecture names and the timm names they stand for."""
    return {k: v for adapter in usable() for k, v in adapter.aliases.items()}


def resolve(name: str) -> Architecture:
    """Find out what an architecture name stands for: zoo, alias, or any name timm knows.

    Raises:
        RegistryError: Nothing is called so; the message suggests the nearest name.
    """
    if name in zoo.names():
        card = zoo.card(name)
        needed = {key: card[key] for key in ("class", "input_size", "mean", "std")}
        return Architecture(name, args=card["args"], card=needed)
    known = aliases().get(name, name)
    if not _is_registered(known):
        raise RegistryError(_unregistered(name))
    return Architecture(name, timm=known)


def is_known(name: str) -> bool:
    """Whether an architecture is called so."""
    return name in zoo.names() or name in aliases() or _is_registered(name)


def _is_registered(name: object) -> bool:
    """Whether timm can build a model of that name from its own code alone."""
    import timm

    if not isinstance(name, str) or not timm.is_model(name):
        return False
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is there, but no weights have that tag
        return False
    return True


def _unregistered(name: object) -> str:
    import timm

    if not isinstance(name, str) or ":" in name:
        return (
            f"The architecture is {printable(repr(name))}, but only names that timm registers are "
            "built, and nothing is fetched by any other; name one of those, and pass --weights "
            "FILE for weights of your own."
        )
    tagged = timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True)
    names = [*zoo.names(), *aliases(), *timm.list_models(), *tagged]
    otherwise = "`prunekit list` shows the short names; any timm name works too."
    return unknown("architecture", name, names, otherwise)


def build(
    name: str, weights: str = "auto", seed: int = 0, args: Mapping[str, Any] | None = None
) -> Built:
    """Build an architecture and fill in weights.

    Args:
        name: A name of the zoo, an alias, or any name timm knows.
        weights: `pretrained`, `random`, or a file: safetensors, or a state dict that
            torch.load reads with weights_only=True. `auto` takes pretrained weights where
            they can be had, and otherwise random ones, with a warning.
        seed: Seed of random weights.
        args: What else the factory is told: `img_size`, `in_chans`, `num_classes`. Architectures
            that take images of any size are not told one.

    Raises:
        RegistryError: Nothing is called `name`.
        RequestError: It cannot be built like that.
        WeightsError: The weights are missing, corrupt, or of another shape.
    """
    architecture = resolve(name)
    args = args or {}
    told = replace(architecture, args={**architecture.args, **args})
    if weights == "random":
        return Built(*_made(told, seed), "random")
    if weights not in ("auto", "pretrained"):
        checkpoint = read_checkpoint(Path(weights))
        return _build_fitting(architecture, args, checkpoint, checkpoint.source, seed)
    if architecture.card is not None:
        checkpoint = replace(read_checkpoint(zoo.weights(name)), source=name)
        return _build_fitting(architecture, args, checkpoint, "zoo", seed)
    return _build_pretrained(told, weights, seed)


def is_random(name: str, weights: str) -> bool:
    """Whether the seed may have a say in the weights."""
    return weights == "random" or (weights == "auto" and name not in zoo.names())


def _build_pretrained(architecture: Architecture, weights: str, seed: int) -> Built:
    model, architecture = _made(architecture, seed)
    assert architecture.timm is not None, "models of the zoo have weights of their own"
    try:
        pretrained, warnings = build_pretrained(architecture.timm, architecture.args)
    except WeightsError as error:
        if weights == "pretrained":
            raise
        warning = f"RANDOM WEIGHTS, so that accuracies mean nothing. {error}"
        return Built(model, architecture, "random", (warning,))
    return Built(pretrained, architecture, "pretrained", warnings)


def _build_fitting(
    architecture: Architecture,
    args: Mapping[str, Any],
    checkpoint: Checkpoint,
    origin: str,
    seed: int,
) -> Built:
    """Build the model that weights were made for, once they have proved to fit."""

    def told(args: Mapping[str, Any]) -> Architecture:
        return replace(architecture, args={**architecture.args, **args})

    def outline(args: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            return _made(told(args), seed)[0]

    fitted = fit(checkpoint, outline, args)
    # What is drawn is the same for every seed: see `is_random`.
    model, made = _made(told(fitted.args), 0 if fitted.drawn else seed)
    own = model.state_dict()
    model.load_state_dict({**{name: own[name] for name in fitted.drawn}, **fitted.tensors})
    return Built(model, made, origin, fitted.notes)


def _made(architecture: Architecture, seed: int) -> tuple[nn.Module, Architecture]:
    """Build a model with random weights; return what it really was told, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return architecture.build(), architecture
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            if isinstance(error, TypeError) and "img_size" in str(error):
                args = {name: v for name, v in architecture.args.items() if name != "img_size"}
                return _made(replace(architecture, args=args), seed)
            told = ", ".join(f"{name}={value}" for name, value in architecture.args.items())
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
            raise RequestError(
                f"{architecture.name} cannot be built with {told or 'its defaults'} ({reason}); "
                "choose other sizes."
            ) from error
