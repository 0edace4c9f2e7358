"""What was asked for is checked in one place, before anything is done."""

from dataclasses import fields
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn

from prunekit import PruneError, prune
from prunekit.comparison.grid import Grid
from prunekit.repairs.base import Repair
from prunekit.request import Options, Request


def refuse(*args, **kwargs):
    raise AssertionError("work was begun")


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """No model may be looked for."""
    monkeypatch.setattr("prunekit.pruning.job.find_subject", refuse)


SENTENCES = [
    ({"ratio": "0.5"}, r"ratio is '0\.5' \(str\); expected a number"),
    ({"ratio": True}, r"ratio is True \(bool\)"),
    ({"ratio": float("nan")}, "ratio is nan"),
    ({"ratio": 1.0}, "ratio is 1.0"),
    ({"model": nn.Linear}, "model is the class Linear and not an object of it"),
    ({"model": {"weight": torch.zeros(2)}}, r"model is .*dict.*expected an architecture name"),
    ({"example_input": np.zeros((1, 3, 8, 8))}, r"a ndarray; expected a tensor.*from_numpy"),
    ({"by": "flops"}, "No budget is called 'flops'"),
    ({"scope": "layer"}, "No scope is called 'layer'"),
    ({"schedule": "none"}, "No schedule is called 'none'"),
    ({"floor": 2}, "floor is 2"),
    ({"floor": float("nan")}, "floor is nan"),
    ({"multiple": 0}, "multiple is 0"),
    ({"multiple": 2.5}, r"multiple is 2\.5 \(float\); expected a whole number"),
    ({"steps": 10**9}, "steps; expected 1 or more"),
    ({"seed": 2**64}, "seed is 18446744073709551616; expected a number from 0"),
    ({"seed": -1}, "seed is -1"),
    ({"calibration": 0}, "Asked for 0 calibration images"),
    ({"include": "layers.*"}, r"include is 'layers\.\*' .*such as \['layers\.\*'\]"),
    ({"img_size": 0}, "img_size is 0"),
    ({"img_size": (1, 2, 3)}, r"img_size is \(1, 2, 3\)"),
    ({"in_chans": 0}, "in_chans is 0; expected 1 or more"),
    ({"num_classes": -1}, "num_classes is -1; expected 0 or more"),
    ({"criterion": "dimpa"}, "Did you mean 'dimap'"),
    ({"repair": "lsqt"}, "Did you mean 'lstsq'"),
    ({"granularity": "2:2"}, "expected n:m"),
    ({"granularity": "weight", "floor": 0.3}, "leave floor out"),
    ({"granularity": "2:4", "ratio": 0.3}, "leave the ratio out"),
]


@pytest.mark.parametrize(("options", "sentence"), SENTENCES, ids=str)
def test_what_cannot_be_is_refused_before_any_work(options, sentence):
    with pytest.raises(PruneError, match=sentence) as caught:
        prune(**{"model": "vit_micro", **options})
    assert "\n" not in str(caught.value)


def test_a_repair_that_knows_no_masks_is_refused():
    slices_only = Repair("slices_only", lambda layer: (layer.weight, layer.bias))
    with pytest.raises(PruneError, match="does not say that it keeps single weights zero"):
        prune("vit_micro", granularity="weight", repair=slices_only)


WORDS = [("floor", 2.0), ("floor", float("nan")), ("multiple", 0), ("steps", 0), ("calibration", 0)]


@pytest.mark.parametrize(("word", "value"), [*WORDS, ("by", "flops"), ("repair", "lsqt")])
def test_a_comparison_refuses_what_a_run_refuses(word, value):
    with pytest.raises(PruneError):
        Grid.of({"arch": "vit_micro", word: value})


def test_the_signature_shows_every_keyword_with_its_default():
    shown = signature(prune).parameters
    assert set(Options.__annotations__) <= set(shown)
    for entry in fields(Request):
        if entry.name != "model":
            assert shown[entry.name].default == entry.default
    assert list(shown)[:3] == ["model", "criterion", "ratio"]


def test_keywords_are_the_fields_of_a_request():
    own = {entry.name for entry in fields(Request)} - {"model", "criterion", "ratio"}
    assert own == set(Options.__annotations__)


def test_an_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="ration"):
        prune("vit_micro", ration=0.5)
