"""uniform: all blocks of a stage keep equally many slices, and nothing else changes."""

from collections import defaultdict

import pytest
import timm
import torch

from prunekit import prune
from prunekit.errors import BudgetError
from prunekit.naming import stage_of


def kept(result):
    """Return what the axes of each stage keep, as sets, and how many axes there are."""
    counts = defaultdict(set)
    for name, stays in result.plan.kept.items():
        counts[stage_of(name)].add(len(stays))
    return counts


@pytest.mark.parametrize("scope", ["axis", "kind", "model"])
@pytest.mark.parametrize(
    ("arch", "stages"), [("swin_micro", 6), ("vit_micro", 2), ("convnext_micro", 4)]
)
def test_blocks_of_a_stage_keep_equally_many(arch, stages, scope):
    result = prune(arch, "random", 0.4, scope=scope, uniform=True, timed=False)
    counts = kept(result)
    assert len(counts) == stages
    assert all(len(each) == 1 for each in counts.values())
    assert result.parity.holds
    assert result.got == pytest.approx(0.4, abs=0.03)
    free = prune(arch, "random", 0.4, scope=scope, timed=False)
    assert scope == "axis" or any(len(each) > 1 for each in kept(free).values())


def test_head_dimensions_that_must_match_agree_in_all_blocks():
    result = prune("vit_micro", "magnitude", 0.2, axes=["head_dim"], uniform=True, timed=False)
    counts = kept(result)
    assert set(counts) == {"blocks.*.attn.qk", "blocks.*.attn.v"}
    assert len(set.union(*counts.values())) == 1


def test_the_best_slices_of_each_block_stay():
    model = timm.create_model("test_vit").eval()
    result = prune(model, "magnitude", 0.2, axes=["mlp"], uniform=True, multiple=1, timed=False)
    for name, stays in result.plan.kept.items():
        best = torch.argsort(result.scores[name], descending=True, stable=True)[: len(stays)]
        assert sorted(best.tolist()) == list(stays)


def test_what_is_asked_for_too_finely_is_remarked_upon():
    """All ten blocks lose 64 channels at once, or none does."""
    options = {"axes": ["mlp"], "multiple": 64, "uniform": True, "timed": False}
    result = prune("vit_micro", "magnitude", 0.1, **options)
    assert any("Asked to remove 10.0%" in line for line in result.warnings)


def test_single_weights_are_never_uniform():
    with pytest.raises(BudgetError, match=r"uniform is True, but single weights"):
        prune("vit_micro", "magnitude", 0.5, granularity="weight", uniform=True)
