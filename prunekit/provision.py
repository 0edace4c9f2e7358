"""images_for: the images of a saved model, as its report says or as the user does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .errors import DataError
from .inputs.brought import open_given
from .inputs.data import Data, open_data
from .inputs.datasets import DATASETS
from .inputs.feed import InputSpec


def data_named(report: Mapping[str, Any], where: str | Path, given: str | Path | None) -> str:
    """Return the name of the images that a saved model is to see.

    Reports come from anywhere, so a folder that only a report names is not walked through.

    Args:
        report: The model's.
        where: Its directory, for messages.
        given: What the user named; that counts.

    Raises:
        DataError: Nobody named any, or only the report names a folder.
    """
    if given is not None:
        return str(given)
    name = report["recipe"]["data"]
    if name is None:
        raise DataError(f"{where} was made without data; name some: data, or --data.")
    if name not in DATASETS:
        raise DataError(
            f"{where} says that its data is the folder {name!r}, and a folder that only a file "
            f"names is not read; if that is right, add --data {shlex.quote(name)}."
        )
    return str(name)


def size_of(report: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width of the images that a saved model was made for, if it says."""
    size = report["recipe"].get("input_size")
    return None if size is None else (size[1], size[2])


def images_for(
    report: Mapping[str, Any],
    where: str | Path,
    model: nn.Module,
    given: Any,
    data_dir: str | Path | None,
    *,
    trains: bool = False,
    labels: bool = True,
) -> Data:
    """Open the images of a saved model, in the size that it was made for.

    Args:
        report: The model's.
        where: Its directory, for messages.
        model: The model.
        given: What the user named, or brought, see `prune`; what the report names if it is None.
        data_dir: Where the full Fashion-MNIST lies.
        trains: What images are for that come alone: to train, or to test.
        labels: Whether labels will be looked at; if not, what is wrong with them is only noted.

    Raises:
        DataError: There are none, or they do not fit the model.
    """
    if given is not None and not isinstance(given, str | Path):
        return open_given(given, model, labels=labels, calibrates=trains, calibration=sys.maxsize)
    spec = InputSpec.of(model).resized(size_of(report))
    name = data_named(report, where, given)
    calibrates = trains and not labels
    return open_data(name, model, data_dir, spec=spec, labels=labels, calibrates=calibrates)
