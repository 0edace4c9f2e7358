"""Checkpoints: the weights of one model in a file, and into a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from .weights_file import printable, read_weights_file

# Where training scripts keep weights. Like timm, the first that is there is taken: averages over
# training, which are better, before what they are averages of.
AVERAGES = ("state_dict_ema", "model_ema")
NESTS = (*AVERAGES, "state_dict", "model", "model_state_dict", "teacher", "module", "net")
DEEPEST = 4  # nests inside each other


@dataclass(frozen=True)
class Checkpoint:
    """The weights that were taken from a file.

    Attributes:
        source: What to call the file.
        tensors: Name to plain tensor, as the file has them.
        notes: What the user must know about how they were chosen.
    """

    source: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the weights in a safetensors file, or in one that torch.save wrote.

    Raises:
        WeightsError: The file is missing or damaged, or holds no state dict of plain tensors.
    """
    content, notes = _unwrapped(read_weights_file(path), path)
    _check_state_dict(content, path)
    for name, tensor in content.items():
        _check_plain(printable(name), tensor, path)
    return Checkpoint(str(path), content, notes)


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights strictly.

    Raises:
        WeightsError: They do not fit.
    """
    check_fits(model.state_dict(), state, source)
    own = model.state_dict()
    filled = OrderedDict(state)
    filled._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]  # some look at it
    model.load_state_dict(filled)


def check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Make sure that weights fit a model to the last tensor.

    Args:
        own: The model's tensors, which may be on the meta device.
        state: What is to be loaded.
        source: What to call it.

    Raises:
        WeightsError: A tensor is missing, unexpected, of another shape or no floating-point
            number; the first of them is named.
    """
    problems = misfits(own, state)
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise WeightsError(
            f"The weights of {source} do not fit the architecture: {problems[0]}{more}; "
            "name the architecture they were made for."
        )


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor that does not fit what is wrong with it.

    Args:
        own: The model's tensors, which may be on the meta device.
        state: What is to be loaded.
    """
    shared = [name for name in own if name in state]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in shared
        if state[name].shape != own[name].shape
    ]
    missing = [f"{name} is missing" for name in own if name not in state]
    extra = [f"{printable(name)} is unexpected" for name in state if name not in own]
    coded = [
        f"{name} is {_dtype(state[name])}, expected floating-point numbers as before quantisation"
        for name in shared
        if own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    return wrong + missing + extra + coded


def _unwrapped(content: Any, path: Path) -> tuple[Any, tuple[str, ...]]:
    """Follow the usual nestings of checkpoints to the weights, and note which were chosen."""
    notes = []
    for _ in range(DEEPEST):
        key = next((key for key in NESTS if _is_nest(content, key)), None) or _only_nest(content)
        if key is None:
            break
        others = [repr(other) for other in content if other != key and _has_tensors(content[other])]
        if key in AVERAGES:
            notes.append(f"Took the EMA weights ({key}) of {path}.")
        elif others:
            beside = printable(" and ".join(others))
            notes.append(f"Took the weights under {key!r} of {path}, not those under {beside}.")
        content = content[key]
    return content, tuple(notes)


def _is_nest(content: Any, key: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(key), dict) and bool(content[key])


def _only_nest(content: Any) -> str | None:
    """Return the key of the only dictionary in one that holds no tensors itself, if there is one.

    A training script may call the weights anything.
    """
    if not isinstance(content, dict) or _has_tensors(content):
        return None
    nests = [key for key, value in content.items() if _leads_to_weights(value)]
    return nests[0] if len(nests) == 1 and isinstance(nests[0], str) else None


def _leads_to_weights(value: Any, deepest: int = DEEPEST) -> bool:
    """Whether a dictionary holds named tensors and nothing else, or one that does.

    An optimizer's state has numbers for names.
    """
    if not isinstance(value, dict) or not value or not deepest:
        return False
    if all(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in value.items()):
        return True
    return any(
        isinstance(name, str) and _leads_to_weights(inner, deepest - 1)
        for name, inner in value.items()
    )


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values())


def _check_state_dict(content: Any, path: Path) -> None:
    if not isinstance(content, dict):
        what = f"but a {type(content).__name__}"
    elif not content:
        what = "but an empty one"
    elif len(several := [repr(name) for name in content if _leads_to_weights(content[name])]) > 1:
        what = f"but several, under {printable(', '.join(several))}"
    else:
        odd = [
            f"since {printable(repr(name))} is of type {type(value).__name__}"
            for name, value in content.items()
            if not (isinstance(name, str) and isinstance(value, Tensor))
        ]
        what = odd[0] if odd else ""
    if what:
        raise WeightsError(
            f"{str(path)!r} holds no state dict, {what}; expected names and tensors, so save "
            "model.state_dict() with torch.save."
        )


def _check_plain(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse tensors that are not laid out number by number, or not there."""
    what = ""
    if tensor.is_nested:
        what, advice = "nested", "save ordinary tensors"
    elif tensor.layout != torch.strided:
        what, advice = "sparse", "save tensor.to_dense()"
    elif tensor.is_quantized:
        what, advice = "quantised", "save tensor.dequantize()"
    elif tensor.is_meta:
        what, advice = "without values (on the meta device)", "save a model that has its weights"
    elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        # What is built after it would be larger than the file by any factor.
        what, advice = "expanded from fewer values", "save tensor.contiguous()"
    if what:
        raise WeightsError(f"{name} of {str(path)!r} is {what}; {advice} instead.")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
