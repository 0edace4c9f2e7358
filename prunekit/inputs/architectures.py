"""An architecture name -> a model with weights."""

from __future__ import annotations

import os
import socket
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from ..adapters.finding import usable
from ..errors import RegistryError, RequestError, WeightsError
from ..registry import unknown
from . import zoo
from .checkpoints import fill, load_weights


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
        """Return the model with random weights, in evaluation mode."""
        if self.card is not None:
            return zoo.build_from({**self.card, "args": self.args})
        import timm

        model: nn.Module = timm.create_model(self.timm, **self.args)
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
    import timm

    known = aliases().get(name, name)
    if not timm.is_model(known):
        names = [*zoo.names(), *aliases(), *timm.list_models()]
        otherwise = "`prunekit list` shows the short names; any timm name works too."
        raise RegistryError(unknown("architecture", name, names, otherwise))
    return Architecture(name, timm=known)


def is_known(name: str) -> bool:
    """Whether an architecture is called so."""
    import timm

    return name in zoo.names() or name in aliases() or bool(timm.is_model(name))


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
    architecture = replace(architecture, args={**architecture.args, **(args or {})})
    if weights in ("auto", "pretrained", "random"):
        return _build_named(architecture, weights, seed)
    return _build_from_file(architecture, Path(weights), seed)


def is_random(name: str, weights: str) -> bool:
    """Whether the seed may have a say in the weights."""
    return weights == "random" or (weights == "auto" and name not in zoo.names())


def _build_named(architecture: Architecture, weights: str, seed: int) -> Built:
    model, architecture = _made(architecture, seed)
    if weights == "random":
        return Built(model, architecture, "random")
    if architecture.card is not None:
        fill(model, load_weights(zoo.weights(architecture.name)), architecture.name)
        return Built(model, architecture, "zoo")
    try:
        return Built(_pretrained(architecture), architecture, "pretrained")
    except WeightsError as error:
        if weights == "pretrained":
            raise
        warning = f"RANDOM WEIGHTS, so that accuracies mean nothing. {error}"
        return Built(model, architecture, "random", (warning,))


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


def _pretrained(architecture: Architecture) -> nn.Module:
    import timm

    try:
        with _quick_refusal():
            model: nn.Module = timm.create_model(
                architecture.timm, pretrained=True, **architecture.args
            )
    except Exception as error:  # the hub's client and timm raise whatever went wrong
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder=" ...")
        raise WeightsError(
            f"No pretrained weights of {architecture.timm} can be had here ({reason}); pass a "
            "weights file, or --weights random."
        ) from error
    return model.eval()


@contextmanager
def _quick_refusal() -> Iterator[None]:
    """Without a network, look in the hub's cache only, instead of retrying for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # names are then resolved by the proxy
    try:
        socket.getaddrinfo(urlparse(url).hostname, 443)
    except OSError:
        return False
    return True


def _build_from_file(architecture: Architecture, path: Path, seed: int) -> Built:
    state = load_weights(path)
    classes = _classes(architecture, state)
    if classes is not None:
        args = {**architecture.args, "num_classes": classes}
        architecture = Architecture(architecture.name, architecture.timm, args, architecture.card)
    model, architecture = _made(architecture, seed)
    fill(model, state, str(path))
    return Built(model, architecture, str(path))


def _classes(architecture: Architecture, state: Mapping[str, Tensor]) -> int | None:
    """Read the number of classes off the classifier's bias, under the name all three use."""
    for name in ("head.fc.bias", "head.bias"):
        if name in state and state[name].dim() == 1:
            return len(state[name])
    return None
