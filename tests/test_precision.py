"""Models of half and of double precision are scored and repaired like those of single precision."""

from __future__ import annotations

import pytest
import torch
from conftest import CLASSES, FAMILIES, adapter_of, axes_of, of_kind, random_plan, toy

from prunekit.criteria import CRITERIA
from prunekit.cutting.shrink import shrunk
from prunekit.recovery.reconstruct import repair_
from prunekit.repairs import REPAIRS
from prunekit.statistics import gather

DTYPES = [torch.bfloat16, torch.float16, torch.float64]
INFORMED = ["taylor", "fisher", "wanda", "flap", "vbp"]


def images_of(example, count=24):
    drawn = torch.randn(count, *example.shape[1:], generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % CLASSES
    return list(zip(drawn.split(8), labels.split(8), strict=True))


def rounded(family, dtype):
    """Return a toy whose weights can be written in either precision, in both."""
    models = [toy(family)[0].to(dtype) for _ in range(2)]
    return models[0], models[1].float(), toy(family)[1]


@pytest.mark.parametrize("name", INFORMED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_single_precision(family, dtype, name):
    model, single, example = rounded(family, dtype)
    criterion = CRITERIA.get(name)
    axes, expected = (
        gather(criterion.needs, m, axes_of(m, example), images_of(example)) for m in (model, single)
    )
    for axis, scores, wanted in zip(axes, criterion(axes), criterion(expected), strict=True):
        assert scores.dtype == torch.float64
        if not wanted.any():  # flap's, of the only branch of a stream
            assert not scores.any()
            continue
        away = (scores - wanted).abs().mean() / wanted.abs().mean()
        # Activations carry the rounding of the model; gradients are computed in single precision.
        assert away < max(4 * torch.finfo(dtype).eps, 1e-4), axis.name


def test_gradients_too_small_for_half_precision_are_not_lost():
    model, single, example = rounded("vit", torch.float16)
    with torch.no_grad():
        model.head.weight.mul_(1e-3)
        single.head.weight.copy_(model.head.weight)
    grads = [
        gather("gradients", m, axes_of(m, example, "mlp"), images_of(example))[0].voters[0].grad
        for m in (model, single)
    ]
    assert float(grads[1].abs().median()) < 6e-6  # float16 has few numbers there
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", ["lstsq", "bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_repairs_help_as_in_single_precision_and_keep_the_model_s_own(family, dtype, name):
    gains = []
    model, single, example = rounded(family, dtype)
    for large in (model, single):
        axes = of_kind(axes_of(large, example), "mlp")
        plan, adapter = random_plan(axes, 0.4), adapter_of(family)
        small = shrunk(large, axes, plan, adapter).eval()
        blocks, images = adapter.blocks(large), images_of(example)
        gains.append(repair_(small, large, axes, plan, REPAIRS.get(name), blocks, images).layers)
        assert {p.dtype for p in small.parameters()} == {next(large.parameters()).dtype}
    for layer, gain in gains[0].items():
        assert gain.after == pytest.approx(gains[1][layer].after, rel=0.05, abs=0.01), layer
    assert sum(g.after for g in gains[0].values()) < sum(g.before for g in gains[0].values())
