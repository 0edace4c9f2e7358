"""What is pruned: a model, the adapter that knows it, and the images it is for."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..adapters.base import Adapter, adapter_for, select
from ..axis import AxisSpec
from ..errors import AdapterError
from ..shared import Shared
from ..tracing.copies import copy_with
from . import zoo
from .architectures import Architecture, build, is_random
from .data import Data, open_data
from .device import find_device
from .feed import InputSpec


@dataclass(frozen=True)
class Subject:
    """The model at hand, and what is known about it.

    Attributes:
        model: In evaluation mode; it may share its tensors with the caller's.
        adapter: What knows it.
        example: One batch of inputs.
        architecture: How to build it again; None if the caller built it.
        weights: Where its weights are from.
        warnings: What the user must know about them.
    """

    model: nn.Module
    adapter: Adapter
    example: Tensor
    architecture: Architecture | None
    weights: str
    warnings: tuple[str, ...]

    def origin(self) -> dict[str, Any]:
        """Return the part of a recipe that says where the model is from."""
        built = self.architecture
        arch = built.name if built else type(self.model).__name__
        return {"arch": arch, "weights": self.weights, "adapter": self.adapter.name}


def find_subject(
    model: nn.Module | str,
    weights: str,
    adapter: Adapter | None,
    example: Tensor | None,
    device: str,
    seed: int,
    shared: Shared,
) -> Subject:
    """Build the model that was named, or wrap the caller's, and find the adapter that knows it.

    A model that was named before is not built again.

    Raises:
        RegistryError: Nothing has that name.
        WeightsError: The weights cannot be had, or do not fit.
        AdapterError: No adapter knows the model, or its input is unknown.
        DeviceError: There is no such device.
    """
    architecture: Architecture | None = None
    source, warnings = "the caller's", tuple[str, ...]()
    if isinstance(model, str):
        name, target = model, find_device(device)
        key = (name, weights, target, seed if is_random(name, weights) else None)
        built = shared.once("model", key, lambda: build(name, weights, seed).to(target))
        model, architecture = built.model, built.architecture
        source, warnings = built.weights, built.warnings
    else:
        # A copy that shares all tensors: putting it in evaluation mode leaves the caller's alone.
        target = next(model.parameters()).device if device == "auto" else find_device(device)
        model = copy_with(model, lambda _, tensor: tensor.to(target)).eval()
    adapter = adapter or adapter_for(model)
    if example is None:
        if not hasattr(model, "pretrained_cfg"):
            raise AdapterError(
                f"{type(model).__name__} is not a timm model, so its input is unknown; pass "
                "example_input, one batch of inputs."
            )
        example = InputSpec.of(model).example(seed)
    return Subject(model, adapter, example, architecture, source, tuple(warnings))


def find_images(
    subject: Subject,
    data: str | Path | None,
    data_dir: str | Path | None,
    wanted: bool,
    shared: Shared,
) -> Data | None:
    """Open the data that was named, or the zoo's own for a model of the zoo, if wanted.

    Raises:
        DataError: It cannot be opened, or has not the model's number of classes.
    """
    if data is None and subject.architecture and subject.architecture.card:
        data = zoo.DATA
    if not wanted or data is None:
        return None
    name, model = str(data), subject.model
    return shared.once("data", (name, data_dir, model), lambda: open_data(name, model, data_dir))


def find_specs(
    subject: Subject, kinds: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[AxisSpec]:
    """Return the axes that may shrink: of these kinds, and chosen by the patterns.

    Raises:
        AdapterError: A kind or a pattern matches nothing, the patterns leave nothing, or they
            separate axes that must agree.
    """
    declared = select(subject.adapter.axes(subject.model), kinds, subject.adapter)
    for pattern in (*include, *exclude):
        if not any(fnmatch.fnmatchcase(spec.name, pattern) for spec in declared):
            raise AdapterError(
                f"The pattern {pattern!r} matches no axis; the axes are called like "
                f"{', '.join(spec.name for spec in declared[:3])}."
            )
    chosen = [
        spec
        for spec in declared
        if (not include or any(fnmatch.fnmatchcase(spec.name, p) for p in include))
        and not any(fnmatch.fnmatchcase(spec.name, p) for p in exclude)
    ]
    if not chosen:
        raise AdapterError("The patterns leave no axis to shrink; exclude less, or include more.")
    torn = {s.match for s in chosen if s.match} & {s.match for s in declared if s not in chosen}
    if torn:
        raise AdapterError(
            f"The patterns separate axes of {min(map(str, torn))!r} that must keep equally many "
            "slices; include or exclude them together."
        )
    return chosen
