"""What is pruned: a model, the adapter that knows it, and the images it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.answers import axes_of, seeing
from ..adapters.base import Adapter, select
from ..adapters.finding import able, find_adapter
from ..arguments import Inputs, plain, tensors_of
from ..axis import AxisSpec
from ..errors import AdapterError, RequestError
from ..globs import matching
from ..shared import Shared
from ..tracing.copies import copy_with
from ..tracing.part import inputs_of, part_of, within
from . import zoo
from .architectures import Architecture, build, is_random
from .brought import open_given
from .computed import Look, Plain, without_computed
from .data import Data, open_data
from .device import find_device
from .feed import InputSpec, are_images
from .lineage import Lineage, lineage_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where a model is from; `prune` explains each word."""

    model: nn.Module | str
    at: str = ""
    weights: str = "auto"
    adapter: Adapter | str | None = None
    example_input: Inputs | None = None
    img_size: int | tuple[int, int] | None = None
    in_chans: int | None = None
    num_classes: int | None = None
    device: str = "auto"
    seed: int = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that were asked for."""
        if self.img_size is None:
            return None
        sides = self.img_size if isinstance(self.img_size, tuple | list) else (self.img_size,)
        return int(sides[0]), int(sides[-1])

    def arguments(self) -> dict[str, Any]:
        """Return what the factory of a named architecture is told."""
        told = {
            "img_size": self.size,
            "in_chans": self.in_chans,
            "num_classes": self.num_classes,
        }
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Subject:
    """The model at hand, and what is known about it.

    Attributes:
        model: In evaluation mode; it may share its tensors with the caller's.
        adapter: What knows it.
        example: One batch of inputs.
        spec: What images for it are like; None if it is not fed images.
        architecture: How to build it again; None if the caller built it.
        weights: Where its weights are from.
        warnings: What the user must know about them.
        lineage: What was pruned from it before; None if nothing was.
        part: Name of the module that is pruned; empty if it is the whole model.
        plain: Names of layers that computed their weight, and have it now.
        given: The model as it was before these were made plain; None if it has none, or was cut.
    """

    model: nn.Module
    adapter: Adapter
    example: Inputs
    spec: InputSpec | None
    architecture: Architecture | None
    weights: str
    warnings: tuple[str, ...]
    lineage: Lineage | None = None
    part: str = ""
    plain: tuple[str, ...] = ()
    given: nn.Module | None = None

    @property
    def dense(self) -> nn.Module:
        """The model that the user has: what others are compared with in size and speed."""
        return self.model if self.given is None else self.given

    def onward(self, model: nn.Module) -> Subject:
        """Return the same for a model that was cut out of this one; its adapter looks at it."""
        adapter = seeing(self.adapter, model, self.example)
        return replace(self, model=model, adapter=adapter, given=None)

    def origin(self) -> dict[str, Any]:
        """Return the part of a recipe that says where the model is from."""
        built = self.architecture
        arch = built.name if built else type(self.model).__name__
        size = list(self.spec.size) if self.spec else None
        return {
            "arch": arch,
            "weights": self.weights,
            "adapter": self.adapter.name,
            "input_size": size,
            **({"at": self.part} if self.part else {}),
        }


def find_subject(source: Source, shared: Shared) -> Subject:
    """Build the model that was named, or wrap the caller's, and find the adapter that knows it.

    A model that was named before is not built again.

    Raises:
        RegistryError: Nothing has that name.
        WeightsError: The weights cannot be had, or do not fit.
        AdapterError: No adapter knows the model, or its input is unknown.
        RequestError: Two options contradict each other.
        DeviceError: There is no such device.
    """
    target = find_device(source.device)
    if isinstance(source.model, str):
        name, seed = source.model, source.seed if is_random(source.model, source.weights) else None
        key = (name, source.weights, target, seed, source.arguments())
        built = shared.once("model", key, lambda: _built(source).to(target))
        model, architecture = built.model, built.architecture
        origin, warnings, lineage = built.weights, built.warnings, None
    else:
        _check_own(source)
        lineage = lineage_of(source.model)
        _check_lineage(source, lineage)
        if source.device == "auto":
            target = next(source.model.parameters(), torch.empty(0)).device
        # A copy that shares all tensors: putting it in evaluation mode leaves the caller's alone.
        model = copy_with(source.model, lambda _, tensor: tensor.to(target)).eval()
        architecture = lineage.architecture if lineage else None
        origin, warnings = lineage.weights if lineage else "the caller's", ()
    part_of(model, source.at)  # says what is wrong with it
    example, spec = _fed(source, model)
    look = _looking(source, model, example)
    if lineage is not None:  # its plan is for layers as they were made then
        found = Plain(model, *look(model), names=lineage.plain)
    else:
        of = model, source.adapter, source.at, [x.shape for x in tensors_of(example)]
        found = shared.once("plain", of, lambda: without_computed(model, look, example))
    return Subject(
        model=found.model,
        adapter=found.adapter,
        example=example,
        spec=spec,
        architecture=architecture,
        weights=origin,
        warnings=(*warnings, *found.warnings),
        lineage=lineage,
        part=source.at,
        plain=found.names,
        given=None if found.model is model else model,
    )


def _looking(source: Source, model: nn.Module, example: Inputs) -> Look:
    """Return what finds the adapter of a model, or of its part, and lets it look."""
    called = inputs_of(source.at, model, example) if source.at else example

    def look(at: nn.Module) -> tuple[Adapter, tuple[str, ...]]:
        part = part_of(at, source.at)
        adapter = find_adapter(source.adapter, part)
        notes: tuple[str, ...] = ()
        if source.adapter is None:
            adapter, notes = able(adapter, part)
        if source.at:
            return within(adapter, source.at, at, called), notes
        return seeing(adapter, at, example), notes

    return look


def _built(source: Source) -> Any:
    assert isinstance(source.model, str), "only what is named is built"
    return build(source.model, source.weights, source.seed, source.arguments())


def _check_own(source: Source) -> None:
    """Refuse what says how to build a model that is there already."""
    for name in ("in_chans", "num_classes"):
        if getattr(source, name) is not None:
            raise RequestError(
                f"{name} is {getattr(source, name)}, but the model is built already; build it that "
                "way, or name an architecture."
            )


def _check_lineage(source: Source, lineage: Lineage | None) -> None:
    """Refuse to prune another part of a saved model than before: plans name what is in one part."""
    if lineage is None or lineage.part == source.at:
        return
    before = f"at={lineage.part!r}" if lineage.part else "as a whole, without at"
    raise RequestError(
        f"The saved model was pruned {before}; prune it further in the same way, or build the "
        "model and prune both at once."
    )


def _fed(source: Source, model: nn.Module) -> tuple[Inputs, InputSpec | None]:
    """Return one batch of inputs, and what images for the model are like."""
    example = source.example_input
    if example is None:
        if not hasattr(model, "pretrained_cfg"):
            raise AdapterError(
                f"{type(model).__name__} is not a timm model, so its input is unknown; pass "
                "example_input, one batch of inputs."
            )
        spec = InputSpec.of(model).resized(source.size)
        return spec.example(source.seed), spec
    if not are_images(example):
        return plain(example), None
    spec = InputSpec.of(model, example)
    if source.size not in (None, spec.size[1:]):
        raise RequestError(
            f"img_size is {source.size}, but example_input is {spec.size[1:]}; leave one of them "
            "out, or make them agree."
        )
    return example, spec


def find_images(
    subject: Subject,
    data: Any,
    data_dir: str | Path | None,
    shared: Shared,
    *,
    labels: bool = True,
    calibrates: bool = False,
    calibration: int = 512,
) -> Data | None:
    """Open the data that was named or brought, or the zoo's own for a model of the zoo.

    Raises:
        DataError: It cannot be opened, does not fit what the model is fed, or its labels are looked
            at and are not the model's.
    """
    if data is None and subject.architecture and subject.architecture.card:
        data = zoo.DATA
    if data is None:
        return None
    if not isinstance(data, str | Path):
        return shared.once(
            "data",
            (id(data), subject.model, labels, calibrates, calibration),
            lambda: open_given(
                data, subject.model, labels=labels, calibrates=calibrates, calibration=calibration
            ),
        )
    name, model, spec = str(data), subject.model, subject.spec
    if spec is None:
        spec = InputSpec.of(model, subject.example)  # says what is wrong with it
    key = name, data_dir, model, spec, labels, calibrates
    return shared.once(
        "data",
        key,
        lambda: open_data(name, model, data_dir, spec=spec, labels=labels, calibrates=calibrates),
    )


def find_specs(
    subject: Subject, kinds: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[AxisSpec]:
    """Return the axes that may shrink: of these kinds, and chosen by the patterns.

    Raises:
        AdapterError: A kind or a pattern matches nothing, the patterns leave nothing, or they
            separate axes that must agree.
    """
    declared = select(axes_of(subject.adapter, subject.model), kinds, subject.adapter)
    names = matching([spec.name for spec in declared], include, exclude, "axis")
    chosen = [spec for spec in declared if spec.name in names]
    if not chosen:
        raise AdapterError("The patterns leave no axis to shrink; exclude less, or include more.")
    torn = {s.match for s in chosen if s.match} & {s.match for s in declared if s not in chosen}
    if torn:
        raise AdapterError(
            f"The patterns separate axes of {min(map(str, torn))!r} that must keep equally many "
            "slices; include or exclude them together."
        )
    return chosen
