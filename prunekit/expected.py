"""check_types: what keywords of `prune` may be, in words."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from .adapters.base import Adapter
from .arguments import plain, tensors_of
from .criteria.base import Criterion
from .errors import RequestError
from .inputs.given import is_given
from .measuring.saving import DTYPES
from .planning.budget import By
from .recovery.recipes import Recipe
from .repairs.base import Repair

_EXPECTED: Mapping[str, tuple[Any, str]] = {
    "model": ((str, nn.Module), "an architecture name or a torch module"),
    "criterion": ((str, Criterion), "a name or a Criterion"),
    "ratio": ((numbers.Real, type(None)), "a number between 0 and 1"),
    "granularity": (str, "slice, weight or n:m"),
    "at": (str, "the name of a part, such as backbone"),
    "by": (str, f"one of {', '.join(get_args(By))}"),
    "repair": ((str, Repair, list, tuple), "a name, a Repair, or several of them"),
    "floor": (numbers.Real, "a number from 0 to 1"),
    "multiple": (numbers.Integral, "a whole number"),
    "scope": ((str, type(None)), "a word, such as kind"),
    "trials": ((numbers.Integral, type(None)), "a whole number"),
    "steps": (numbers.Integral, "a whole number"),
    "finetune": ((Recipe, type(None)), "a Recipe"),
    "adapter": ((str, Adapter, type(None)), "a name or an Adapter"),
    "example_input": (
        (Tensor, tuple, list, Mapping, type(None)),
        "a tensor, such as torch.from_numpy(array), or several in a tuple, a list or a dictionary",
    ),
    "img_size": ((numbers.Integral, tuple, list, type(None)), "a number, or height and width"),
    "in_chans": ((numbers.Integral, type(None)), "a whole number"),
    "num_classes": ((numbers.Integral, type(None)), "a whole number"),
    "weights": ((str, Path), "auto, pretrained, random, or a file"),
    "calibration": (numbers.Integral, "a whole number"),
    "device": (str, "auto, cpu or cuda"),
    "also": (Mapping, "a mapping, such as {'params': 0.3}"),
    "target_ms": ((numbers.Real, type(None)), "a number of milliseconds"),
    "latency_batch": (numbers.Integral, "a whole number"),
    "latency_dtype": (str, f"one of {', '.join(DTYPES)}"),
    "seed": (numbers.Integral, "a whole number"),
}


def check_types(request: Any) -> None:
    """Refuse values that are of no type that is known.

    Args:
        request: The `Request`.

    Raises:
        RequestError: One is not.
    """
    for name, (types, expected) in _EXPECTED.items():
        value = getattr(request, name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise RequestError(f"{name} is {_shown(value)}; expected {expected}.")
    data = request.data
    if not (data is None or isinstance(data, str | Path) or is_given(data)):
        raise RequestError(
            f"data is {_shown(data)}; expected the name of a data set, a folder, a Dataset, a "
            "DataLoader, a list of batches, or a pair of them (calibration, test)."
        )
    given = request.example_input
    if given is not None and not tensors_of(plain(given)):
        raise RequestError(
            f"example_input is {_shown(given)}, without any tensor; expected one batch of inputs."
        )
    for name in ("axes", "include", "exclude"):
        value = getattr(request, name)
        if isinstance(value, str) or not all(isinstance(word, str) for word in value or ()):
            words = value.split(",") if isinstance(value, str) else [str(value)]
            raise RequestError(
                f"{name} is {_shown(value)}; expected several strings, such as {words}."
            )


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} and not an object of it"
    text = repr(value)
    return f"{text} ({type(value).__name__})" if len(text) < 40 else f"a {type(value).__name__}"
