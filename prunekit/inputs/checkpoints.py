"""Weights files -> tensors, and into a model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a state dict that was saved with torch.save.

    Raises:
        WeightsError: The file is missing, corrupt, or holds more than tensors.
    """
    if not path.is_file():
        raise WeightsError(
            f"There is no weights file {str(path)!r}; expected pretrained, random, auto, or the "
            "path of a safetensors or PyTorch file."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors and torch raise a dozen types for bad bytes
        reason = textwrap.shorten(str(error), 100, placeholder=" ...")
        raise WeightsError(
            f"{str(path)!r} is not a readable weights file ({type(error).__name__}: {reason}); "
            "expected safetensors, or a PyTorch file of tensors only."
        ) from error
    return _state_dict(state, path)


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights strictly.

    Raises:
        WeightsError: A tensor is missing, unexpected or of another shape; the first of each
            is named.
    """
    own = model.state_dict()
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    missing = [f"{name} is missing" for name in own if name not in state]
    extra = [f"{name} is unexpected" for name in state if name not in own]
    problems = wrong + missing + extra
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(
            f"The weights of {source} do not fit the architecture: {problems[0]}{more}; "
            "name the architecture they were made for."
        )
    model.load_state_dict(state)


def _state_dict(state: Any, path: Path) -> dict[str, Tensor]:
    """Unwrap the usual nestings of checkpoints."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{str(path)!r} holds no state dict; expected names and tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
