"""What a repair promises."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..adapters import ADAPTERS
from ..adapters.answers import blocks_of
from ..cutting.shrink import shrunk
from ..plugin import configured
from ..recovery.reconstruct import repair_
from ..repairs import REPAIRS
from ..repairs.base import Repair
from ..repairs.given import Layer
from ..statistics.covariance import Covariance
from .block_repairs import BLOCK_CLAIMS
from .check import Check, Claim, checks
from .models import FAMILIES, images_for, random_plan, subject_of, traced
from .norm_repairs import NORM_CLAIMS


def repair_checks(repair: str | Repair) -> list[Check]:
    """Return everything that a repair promises, as checks.

    Args:
        repair: A Repair, or a registered name, with options such as "lstsq:ridge=0.1".

    Raises:
        RegistryError: Nothing has that name.
        RepairError: It has no such option, or the value is not understood.
    """
    found = configured(REPAIRS, repair)
    if found.needs == "norms":
        return checks(NORM_CLAIMS, found)
    if found.needs == "blocks":
        return checks(BLOCK_CLAIMS, found)
    claims: list[Claim[Repair]] = [
        ("returns finite weights of the layer's own shape", _weights_fit),
        ("returns the same weights twice", _repeats),
        ("leaves what it is given untouched", _leaves_layers_alone),
        ("brings no layer further from the dense one", _does_no_harm),
        ("changes nothing where nothing was lost", _keeps_what_is_whole),
        ("copes with inputs that never vary", _copes_with_constants),
        ("permutes its weights with the inputs", _follows_inputs),
        ("repairs models of every family", _repairs_models),
    ]
    if found.masks:
        claims.append(("keeps zero what a mask removes, and does no harm there", _keeps_zeros))
    return checks(claims, found)


def example_layer(
    seed: int = 0,
    *,
    lost: int = 4,
    bias: bool = True,
    spread: float = 1.0,
    order: Any = slice(None),
) -> Layer:
    """Return a layer of 6 outputs that has lost some of 12 inputs, all correlated.

    Args:
        seed: Of weights and inputs.
        lost: How many inputs are gone.
        bias: Whether it has one.
        spread: Standard deviation of the inputs.
        order: A permutation of the inputs that stay.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = 0.5 + spread * draw(96, 5) @ draw(5, 12)
    weight, offset = draw(6, 12), draw(6) if bias else None
    y = x @ weight.T + (0 if offset is None else offset)
    left, stays = x[:, lost:][:, order], weight[:, lost:][:, order]
    moments = Covariance()
    moments.add(left, y, images=8)
    halves = tuple(Layer("layer", stays, offset, *moments.finish(half)) for half in (0, 1))
    return Layer("layer", stays, offset, *moments.finish(0, 1), halves)


def _weights_fit(repair: Repair) -> None:
    for bias in (True, False):
        repair.unguarded(example_layer(bias=bias))  # raises a RepairError that says what is wrong


def _repeats(repair: Repair) -> None:
    for first, second in zip(
        repair.unguarded(example_layer()), repair.unguarded(example_layer()), strict=True
    ):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second), "two calls on the same layer gave different weights"


def _leaves_layers_alone(repair: Repair) -> None:
    layer, same = example_layer(), example_layer()
    repair.unguarded(layer)
    for entry in fields(Layer):
        value = getattr(layer, entry.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(same, entry.name)), f"{entry.name} was changed"


def _does_no_harm(repair: Repair) -> None:
    for seed in range(3):
        for bias in (True, False):
            layer = example_layer(seed, bias=bias)
            before, after = (
                layer.error(layer.weight, layer.bias),
                layer.error(*repair.unguarded(layer)),
            )
            assert after <= before * (1 + 1e-6), f"the error went from {before:.3g} to {after:.3g}"


def _keeps_zeros(repair: Repair) -> None:
    layer = example_layer(lost=0)
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(layer.weight.shape, generator=generator) < 0.5
    layer, *halves = (
        replace(one, weight=one.weight * mask, mask=mask) for one in (layer, *layer.halves)
    )
    layer = replace(layer, halves=tuple(halves))
    weight, bias = repair(layer)  # raises a RepairError if a zero is lost
    before, after = layer.error(layer.weight, layer.bias), layer.error(weight, bias)
    assert after <= before * (1 + 1e-6), f"the error went from {before:.3g} to {after:.3g}"


def _keeps_what_is_whole(repair: Repair) -> None:
    layer = example_layer(lost=0)
    weight, bias = repair.unguarded(layer)
    assert torch.allclose(weight, layer.weight, atol=1e-4), "the weight changed"
    assert bias is not None
    assert torch.allclose(bias, layer.bias, atol=1e-4), "the bias changed"  # type: ignore[arg-type]


def _copes_with_constants(repair: Repair) -> None:
    repair.unguarded(example_layer(spread=0.0))


def _follows_inputs(repair: Repair) -> None:
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    weight, _ = repair.unguarded(example_layer())
    permuted, _ = repair.unguarded(example_layer(order=order))
    assert torch.allclose(weight[:, order], permuted, atol=1e-4), (
        "permuting the inputs did not permute the weights"
    )


def _repairs_models(repair: Repair) -> None:
    for name in FAMILIES if repair.needs != "nothing" else ():
        subject = subject_of(ADAPTERS.get(name))
        axes, images = traced(subject), images_for(subject.example)
        plan = random_plan(axes, subject.model, 0.3)
        small = shrunk(subject.model, axes, plan, subject.adapter).eval()
        blocks = blocks_of(subject.adapter, subject.model)
        repair_(small, subject.model, axes, plan, repair, blocks, images)
