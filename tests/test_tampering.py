"""A plug-in that writes to what it was lent spoils nothing but its own cells."""

import pytest
import torch

import prunekit.inputs.fashion
from prunekit import prune
from prunekit.comparison.compare import compare
from prunekit.comparison.grid import Grid
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.errors import GridError, TamperedError
from prunekit.inputs.zoo import build


@pytest.fixture
def greedy():
    """README's own criterion, with `abs_()` for `abs()`."""

    def score(axes):
        return [axis.reduce(lambda member: member.weight.abs_()) for axis in axes]

    CRITERIA.add("greedy", Criterion("greedy", score))
    yield "greedy"
    CRITERIA._loaded.pop("greedy")


def test_the_callers_model_stays_as_it_was(greedy):
    model = build("vit_micro")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TamperedError, match="'greedy'"):
        prune(model, "greedy", 0.5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_other_cells_of_a_comparison_are_what_they_are_without_it(greedy, tmp_path, monkeypatch):
    read = prunekit.inputs.fashion._idx
    monkeypatch.setattr(prunekit.inputs.fashion, "_idx", lambda *given: read(*given)[:1000])
    words = {"arch": "vit_micro", "ratio": 0.5}
    alone, failed = compare(Grid.of({**words, "criterion": ["magnitude"]}), tmp_path / "alone")
    assert failed == []
    criteria = ["greedy", "magnitude"]
    beside, failed = compare(Grid.of({**words, "criterion": criteria}), tmp_path / "beside")
    assert [one.cell.criterion for one in failed] == ["greedy"]
    assert "'greedy'" in failed[0].reason
    (found,), (expected,) = (one.standings[0].rows for one in (beside, alone))
    assert found.top1 == expected.top1 > 50


def test_where_every_cell_fails_the_cause_is_said(greedy, tmp_path):
    with pytest.raises(GridError, match=r"No cell could be run\..*'greedy'"):
        compare(Grid.of({"arch": "vit_micro", "criterion": ["greedy"]}), tmp_path / "out")
