"""open_given: images that the caller brings, as splits of one data set."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import call
from ..errors import AdapterError, DataError
from ..tracing.running import dry_run
from .data import Data, misfit
from .given import classes_of, first_of, has_labels, name_of, opened, pair_of


def open_given(
    data: Any, model: nn.Module, *, labels: bool, calibrates: bool, calibration: int
) -> Data:
    """Open a data set, a loader or batches, or a pair (calibration, test) of them.

    Args:
        data: What was given; nothing prepares its images for the model.
        model: Its number of classes decides whether the labels are of use.
        labels: Whether calibration images need labels.
        calibrates: What one alone is for: to calibrate, or to test.
        calibration: How many images to hold of what calibrates and is no data set.

    Raises:
        DataError: It holds no images, the model does not run on them, or labels are needed, and
            missing or not the model's.
    """
    first, second = pair_of(data, calibrates=calibrates)
    seen = None if first is None else opened(first, limit=calibration)
    test = None if second is None else opened(second, limit=None)
    names = [name_of(one) for one in (first, second) if one is not None]
    if seen is not None and labels and not has_labels(seen):
        raise DataError(
            f"{names[0]} has no labels, and labels are needed; pass (images, "
            "labels), or choose a criterion that needs none, such as obs or kfac:loss=self."
        )
    problem = None
    if test is not None and not has_labels(test):
        problem = f"{names[-1]} has no labels to evaluate with."
    for one, name in zip((x for x in (seen, test) if x is not None), names, strict=True):
        _check_runs(model, first_of(one), name)
    classes = classes_of(first if second is None else second)
    found = Data(" and ".join(dict.fromkeys(names)), classes, test, seen, problem)
    if problem or not classes:
        return found
    found = replace(found, problem=misfit(found, model))
    if labels:
        found.check_labels()
    return found


def _check_runs(model: nn.Module, image: Any, name: str) -> None:
    """Refuse images that a model does not run on, before anything else is done.

    Raises:
        DataError: It does not.
    """
    one = image if isinstance(image, Tensor) else image[0].unsqueeze(0)
    told = f"{name} gives images of shape {tuple(one.shape[1:])} in {one.dtype}"
    if isinstance(image, list):
        told = f"{name} gives a list of {told.removeprefix(f'{name} gives ')}"
    if one.dtype == torch.uint8:
        raise DataError(f"{told}; give it a transform that scales and normalises them.")
    try:
        with warnings.catch_warnings():  # that a detector runs in earnest
            warnings.simplefilter("ignore")
            dry_run(model, image, call)
    except AdapterError as error:
        why = error.__cause__ or error
        raise DataError(
            f"{told}, on which {type(model).__name__} does not run ({why}); prepare them as it "
            "needs them."
        ) from error
