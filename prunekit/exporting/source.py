"""Source: the pruned model that is exported, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils._pytree import tree_leaves

from ..adapters.base import Adapter
from ..arguments import Inputs, are_batch, arguments, batch_of, call, mapped, plain, shown
from ..artifact import open_artifact
from ..errors import ExportError
from ..files.hub import fetched
from ..files.stored import ARTIFACT
from ..inputs.architectures import Architecture
from ..inputs.feed import InputSpec
from ..planning.plan import Plan
from ..provision import size_of
from ..result import Result
from ..tracing.copies import copy_with


@dataclass(frozen=True)
class Source:
    """A pruned model that is to be exported.

    Attributes:
        model: In evaluation mode, on the CPU.
        example: One batch of inputs, on the CPU and in the model's precision.
        report: What was measured on it.
        architecture: How to build the large model; None if the caller built it.
        plan: What stayed of that.
        kinds: Axis name to its kind.
        saved: The artifact's directory, or the result, that it comes from.
        given: The large model, if the caller built it and it is at hand.
        plain: Names of layers that were made plain before anything was cut.
    """

    model: nn.Module
    example: Inputs
    report: Mapping[str, Any]
    architecture: Architecture | None
    plan: Plan
    kinds: Mapping[str, str]
    saved: Path | Result
    given: nn.Module | None = field(default=None, repr=False)
    plain: tuple[str, ...] = ()

    def batch(self, count: int) -> Inputs:
        """Return so many inputs, each of them another: the first one, brighter and brighter."""

        def varied(x: Tensor) -> Tensor:
            if not x.is_floating_point() or len(x) != count:
                return x
            gains = 1 + torch.arange(count, dtype=x.dtype) / 4
            return x * gains.view(-1, *[1] * (x.dim() - 1))

        return mapped(varied, batch_of(self.example, count))

    def resized(self, size: tuple[int, int]) -> Source:
        """Return it with images of another height and width, which repeat pixels of its own."""
        assert isinstance(self.example, Tensor), "only images have a size"
        return replace(self, example=interpolate(self.example, size))

    def takes(self, count: int) -> bool:
        """Whether the model runs on so many inputs at once."""
        if not self.batches:
            return False
        try:
            with torch.inference_mode():
                call(self.model, self.batch(count))
        except Exception:  # of the model's own code
            return False
        return True

    @property
    def batches(self) -> bool:
        """Whether the number of images shows in the inputs."""
        return are_batch(self.example) and not isinstance(self.example, list)

    @property
    def dtype(self) -> str:
        """The precision of its weights, such as "float32"."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def is_half(self) -> bool:
        """Whether its weights have two bytes each."""
        return next(self.model.parameters()).dtype.itemsize == 2

    def with_model(self, model: nn.Module) -> Source:
        """Return it with another model in its place."""
        return replace(self, model=model.eval())

    def dense(self) -> nn.Module | None:
        """Return the large model with whatever weights, or None if there is no telling it."""
        if self.architecture is not None:
            return self.architecture.build()
        return self.given

    @property
    def images(self) -> InputSpec | None:
        """What images the model is fed; None if it is fed something else."""
        if not isinstance(self.example, Tensor) or self.example.dim() != 4:
            return None
        return InputSpec.of(self.model, self.example)


def source_of(
    saved: Result | str | Path,
    *,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Inputs | None = None,
) -> Source:
    """Open what is to be exported.

    Args:
        saved: A result, or the directory of an artifact.
        model: As for `load`.
        adapter: As for `load`.
        example_input: One batch of inputs; of an artifact only, and if the model is not timm's.

    Raises:
        ArtifactError: The artifact is corrupt, or not whole.
        ExportError: The inputs are not made of tensors.
    """
    if isinstance(saved, Result):
        small = copy_with(saved.model, lambda _, tensor: tensor.detach().cpu().clone()).eval()
        example_input = saved.example if example_input is None else example_input
        report: Mapping[str, Any] = saved.report()
        architecture, plan, layers = saved.architecture, saved.plan, saved.plain
    else:
        artifact = open_artifact(saved, model=model, adapter=adapter, example_input=example_input)
        small, report = artifact.model, artifact.report
        architecture, plan, layers = artifact.architecture, artifact.plan, artifact.plain
    return Source(
        small,
        _example(small, example_input, report),
        report,
        architecture,
        plan,
        {name: axis["kind"] for name, axis in report["axes"].items()},
        saved if isinstance(saved, Result) else fetched(saved, ARTIFACT),
        model,
        layers,
    )


def _example(model: nn.Module, given: Inputs | None, report: Mapping[str, Any]) -> Inputs:
    """Return a batch of inputs on the CPU, in the model's precision."""
    like = next(model.parameters())
    found = InputSpec.of(model).resized(size_of(report)).example() if given is None else given
    example = mapped(
        lambda x: x.to("cpu", like.dtype if x.is_floating_point() else x.dtype), plain(found)
    )
    args, kwargs, method = arguments(example)
    others = [leaf for leaf in tree_leaves((args, kwargs)) if not isinstance(leaf, Tensor)]
    if others or method != "__call__":
        what = f"a {type(others[0]).__name__}" if others else f"a call of {method}()"
        raise ExportError(
            f"The example input has {what} beside {shown(example)}; an exported model is fed "
            "nothing but tensors. Wrap the model in one whose forward() takes only those."
        )
    return example
