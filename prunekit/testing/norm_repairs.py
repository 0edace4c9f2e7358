"""What a repair of BatchNorms promises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import ADAPTERS
from ..recovery.recalibrate import recalibrate_
from ..repairs.base import Repair
from ..repairs.given import Norm
from ..tracing.copies import BATCH_NORMS
from .check import Claim
from .models import images_for, subject_of

CHANNELS = 6


def example_norm(spread: float = 1.0, order: Any = slice(None)) -> Norm:
    """Return a BatchNorm of 6 channels whose inputs are not what they were.

    Args:
        spread: Factor on the standard deviations of its inputs; 0 makes them constant.
        order: A permutation of the channels.
    """
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.rand(CHANNELS, generator=generator, dtype=torch.float64)[order]

    return Norm("norm", draw() - 0.5, draw() * spread**2, 96, draw() - 0.5, draw() + 0.5)


def _statistics_fit(repair: Repair) -> None:
    repair.restate_unguarded(example_norm())  # raises a RepairError that says what is wrong


def _repeats(repair: Repair) -> None:
    pairs = zip(*(repair.restate_unguarded(example_norm()) for _ in range(2)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs), "two calls gave different statistics"


def _leaves_norms_alone(repair: Repair) -> None:
    norm, same = example_norm(), example_norm()
    repair.restate_unguarded(norm)
    for what, tensor in norm.tensors.items():
        assert torch.equal(tensor, same.tensors[what]), f"{what} was changed"


def _copes_with_constants(repair: Repair) -> None:
    repair.restate_unguarded(example_norm(spread=0.0))


def _follows_channels(repair: Repair) -> None:
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    found, permuted = (
        repair.restate_unguarded(example_norm(order=one)) for one in (slice(None), order)
    )
    same = all(torch.equal(one[order], other) for one, other in zip(found, permuted, strict=True))
    assert same, "permuting the channels did not permute the statistics"


def _restates_models(repair: Repair) -> None:
    subject = subject_of(ADAPTERS.get("auto"))
    model: nn.Module = subject.model
    assert any(isinstance(module, BATCH_NORMS) for module in model.modules())
    assert recalibrate_(model, repair, images_for(subject.example)), "no BatchNorm was restated"


NORM_CLAIMS: list[Claim[Repair]] = [
    ("returns finite statistics of the BatchNorm's own shape", _statistics_fit),
    ("returns the same statistics twice", _repeats),
    ("leaves what it is given untouched", _leaves_norms_alone),
    ("copes with inputs that never vary", _copes_with_constants),
    ("permutes its statistics with the channels", _follows_channels),
    ("restates the BatchNorms of a model", _restates_models),
]
