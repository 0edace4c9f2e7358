"""open_given: images that the caller brings, as splits of one data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import DataError
from .data import Data, misfit
from .given import classes_of, has_labels, name_of, opened, pair_of


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
        DataError: It holds no images, or labels are needed, and missing or not the model's.
    """
    first, second = pair_of(data, calibrates=calibrates)
    shown = None if first is None else opened(first, limit=calibration)
    test = None if second is None else opened(second, limit=None)
    names = [name_of(one) for one in (first, second) if one is not None]
    if shown is not None and labels and not has_labels(shown):
        raise DataError(f"{names[0]} has no labels, which are looked at; pass (images, labels).")
    problem = None
    if test is not None and not has_labels(test):
        problem = f"{names[-1]} has no labels to evaluate with."
    classes = classes_of(first if second is None else second)
    found = Data(" and ".join(dict.fromkeys(names)), classes, test, shown, problem)
    if problem or not classes:
        return found
    found = replace(found, problem=misfit(found, model))
    if labels:
        found.check_labels()
    return found
