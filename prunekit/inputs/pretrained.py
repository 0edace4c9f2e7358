"""Weights that timm publishes: from the hub's cache, or from the hub."""

from __future__ import annotations

import os
import socket
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from ..errors import WeightsError


def build_pretrained(name: str, args: Mapping[str, Any]) -> tuple[nn.Module, tuple[str, ...]]:
    """Build one of timm's models with the weights that timm publishes.

    Args:
        name: One that timm registers.
        args: What its factory is told.

    Returns:
        The model in evaluation mode, and what the user must know about its weights.

    Raises:
        WeightsError: There are none, or they cannot be had.
    """
    import timm

    try:
        # What timm leaves random is so in the same way for every seed: see `is_random`.
        with _quick_refusal(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = timm.create_model(name, pretrained=True, **args)
    except Exception as error:  # the hub's client and timm raise whatever went wrong
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 100, placeholder=" ...")
        raise WeightsError(
            f"No pretrained weights of {name} can be had here ({reason}); pass a weights file, or "
            "--weights random."
        ) from error
    return model.eval(), _drawn(model, args.get("num_classes"))


def _drawn(model: nn.Module, asked: int | None) -> tuple[str, ...]:
    """Warn of a classifier that timm made anew, since it was asked for other classes."""
    config: Any = model.pretrained_cfg
    published = config["num_classes"]
    if asked in (None, 0, published):
        return ()
    return (
        f"RANDOM WEIGHTS in the classifier, so that accuracies mean nothing before it is trained: "
        f"the pretrained ones are for {published:,} classes, not {asked:,}.",
    )


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
