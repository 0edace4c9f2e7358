"""Weights files: of other tools, damaged, and hostile."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from .hostile import mix

State = dict[str, Any]
NORM, LAYER, HEAD = "blocks.0.norm1.weight", "blocks.1.mlp.fc1.weight", "head.bias"


@dataclass(frozen=True)
class File:
    """A weights file.

    Attributes:
        how: What is odd about it: a key of `RIGHT` or `WRONG`.
        suffix: `.safetensors` or `.pth`.
        criterion: What the model is then pruned by; some do not look at all weights.
    """

    how: str
    suffix: str
    criterion: str = "magnitude"

    @property
    def right(self) -> bool:
        """Whether it holds the very weights of the model, so that it must be taken."""
        return self.how in RIGHT


def _with(name: str, change: Callable[[Tensor], Any]) -> Callable[[State], Any]:
    return lambda state: {**state, name: change(state[name])}


def _all(change: Callable[[Tensor], Any]) -> Callable[[State], Any]:
    return lambda state: {name: change(tensor) for name, tensor in state.items()}


def _prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def _spoilt(where: int, value: float) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        found = tensor.clone()
        found.view(-1)[where] = value
        return found

    return change


RIGHT: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "module.": _prefixed("module."),
    "_orig_mod.": _prefixed("_orig_mod."),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "ema": lambda state: {"state_dict": _all(torch.zeros_like)(state), "state_dict_ema": state},
    "model_ema": lambda state: {"model_ema": state},
    "namespace": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
    "ordered": lambda state: OrderedDict(state),
    "float64": _all(Tensor.double),
    "parameters": _all(nn.Parameter),
}
WRONG: dict[str, Callable[[State], Any]] = {
    "nan": _with(LAYER, _spoilt(7, torch.nan)),
    "inf": _with(LAYER, _spoilt(7, torch.inf)),
    "nan-norm": _with(NORM, _spoilt(0, torch.nan)),
    "nan-head": _with(HEAD, _spoilt(0, torch.nan)),
    "overflow": _with(LAYER, lambda tensor: tensor.double() * 1e300),
    "int8": _all(Tensor.char),
    "bool": _all(Tensor.bool),
    "int8-one": _with(LAYER, Tensor.char),
    "complex": _with(LAYER, lambda tensor: tensor.to(torch.complex64)),
    "float8": _all(lambda tensor: tensor.to(torch.float8_e4m3fn).view(torch.uint8)),
    "sparse": _with(LAYER, Tensor.to_sparse),
    "csr": _with(LAYER, Tensor.to_sparse_csr),
    "quantised": _with(LAYER, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "meta": _with(LAYER, lambda tensor: tensor.to("meta")),
    "nested": _with(LAYER, lambda tensor: torch.nested.nested_tensor([tensor, tensor[:2]])),
    "twins": lambda state: {**state, **_prefixed("module.")(_all(torch.zeros_like)(state))},
    "missing": lambda state: {name: t for name, t in state.items() if name != LAYER},
    "headless": lambda state: {n: t for n, t in state.items() if not n.startswith("head")},
    "extra": lambda state: {**state, "blocks.99.x": torch.zeros(1)},
    "shape": _with(LAYER, lambda tensor: tensor[1:].clone()),
    "transposed": _with(LAYER, lambda tensor: tensor.T.contiguous()),
    "huge-bias": _with(HEAD, lambda tensor: tensor.new_zeros(1).expand(1 << 40)),
    "empty-bias": _with(HEAD, lambda tensor: tensor[:0].clone()),
    "scalar-bias": _with(HEAD, lambda tensor: tensor[0].clone()),
    "matrix-bias": _with(HEAD, lambda tensor: tensor[None].clone()),
    "empty": lambda state: {},
    "list": lambda state: list(state.values()),
    "tensor": lambda state: state[LAYER],
    "number": lambda state: 3,
    "none": lambda state: None,
    "numbers-for-names": lambda state: dict(enumerate(state.values())),
    "bytes-for-names": lambda state: {name.encode(): tensor for name, tensor in state.items()},
    "escape": lambda state: {**state, "\x1b]0;t\x07\x1b[31m": torch.zeros(1)},
    "lines": lambda state: {**state, "a\nb\nc": torch.zeros(1)},
    "long-name": lambda state: {**state, "x" * 100_000: torch.zeros(1)},
    "strings": lambda state: dict.fromkeys(state, "weights"),
    "whole-model": lambda state: nn.Linear(3, 3),
}


def files() -> st.SearchStrategy[File]:
    """Return weights files."""
    how = mix((1, st.sampled_from(sorted(RIGHT))), (3, st.sampled_from(sorted(WRONG))))
    suffix = st.sampled_from([".safetensors", ".pth", ".pth"])
    return st.builds(File, how, suffix, st.sampled_from(["magnitude", "dimap", "random"]))


def write(case: File, state: State, directory: Path) -> Path | None:
    """Write the file; None if its format cannot hold such a thing."""
    path = directory / f"weights{case.suffix}"
    content = {**RIGHT, **WRONG}[case.how](dict(state))
    try:
        if case.suffix == ".safetensors":
            save_file({name: t.detach().contiguous() for name, t in content.items()}, path)
        else:
            torch.save(content, path)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError,
            pickle.PicklingError, MemoryError):  # fmt: skip
        path.unlink(missing_ok=True)
        return None
    return path
