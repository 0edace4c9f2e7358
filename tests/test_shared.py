"""Runs may share work; their results may not change by it."""

from dataclasses import replace

import pytest
import torch
from conftest import write_digits

import prunekit.inputs.subject
import prunekit.pruning.mending
import prunekit.pruning.scoring
import prunekit.pruning.slices
from prunekit import prune
from prunekit.shared import Shared

RUNS = [  # neighbours differ in one thing each
    {"criterion": "taylor"},
    {"criterion": "taylor", "ratio": 0.3},
    {"criterion": "taylor", "seed": 1},
    {"criterion": "taylor", "seed": 1, "calibration": 64},
    {"criterion": "taylor", "seed": 1, "calibration": 64, "axes": ("mlp",)},
    {"criterion": "wanda", "seed": 1, "calibration": 64, "axes": ("mlp",)},
    {"criterion": "random", "seed": 1, "axes": ("mlp",)},
    {"criterion": "random", "axes": ("mlp",)},
    {"criterion": "random", "axes": ("mlp",), "exclude": ("layers.0.*",)},
    {"criterion": "magnitude:p=1"},
    {"criterion": "magnitude:p=2"},
    {"criterion": "magnitude:p=2", "model": "vit_micro"},
    {"criterion": "taylor", "calibration": 64, "steps": 2},
    {"criterion": "dimap", "calibration": 64, "repair": "lstsq"},
    {"criterion": "taylor", "calibration": 64},  # what a repair leaves of the dense model
]


def run(shared=None, model="swin_micro", calibration=128, **choices):
    return prune(model, calibration=calibration, shared=shared, **choices)


def test_results_are_what_they_are_with_nothing_shared():
    shared = Shared()
    for choices in RUNS:
        alone, together = run(**choices), run(shared, **choices)
        assert together.plan == alone.plan, choices
        assert together.recipe == alone.recipe
        states = alone.model.state_dict(), together.model.state_dict()
        for name, tensor in states[0].items():
            torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=0)
        for name, scores in alone.scores.items():
            torch.testing.assert_close(together.scores[name], scores, rtol=0, atol=0)
    assert shared.saved > 0


def test_what_is_measured_on_the_dense_model_is_that_of_the_right_one(tmp_path):
    for name, test in (("few", 20), ("more", 50)):
        write_digits(tmp_path / name, test=test)
    shared = Shared()
    for model, data in (("swin_micro", "few"), ("vit_micro", "few"), ("vit_micro", "more")):
        choices = {"criterion": "magnitude", "data": tmp_path / data, "evaluate": True}
        alone, together = run(model=model, **choices), run(shared, model=model, **choices)
        for one, other in ((alone.before, together.before), (alone.after, together.after)):
            assert replace(one, latency_ms={}) == replace(other, latency_ms={})
        assert torch.equal(alone.correct[0], together.correct[0])


def test_what_runs_have_in_common_is_done_once(monkeypatch):
    counts = {"build": 0, "trace_inside": 0, "gather": 0}

    def counted(name, module):
        function = getattr(module, name)

        def wrapped(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapped)

    counted("build", prunekit.inputs.subject)
    counted("trace_inside", prunekit.pruning.slices)
    counted("gather", prunekit.pruning.scoring)
    shared = Shared()
    for criterion in ("taylor", "wanda", "flap", "magnitude"):
        for ratio in (0.3, 0.6):
            run(shared, criterion=criterion, ratio=ratio, calibration=64)
    assert counts == {"build": 1, "trace_inside": 1, "gather": 2}  # gradients, activations


def test_random_weights_of_another_seed_are_another_model():
    shared = Shared()
    first, second = (
        run(shared, model="swin_micro", weights="random", criterion="magnitude", seed=seed)
        for seed in (0, 1)
    )
    assert not torch.equal(first.model.head.fc.weight, second.model.head.fc.weight)


def test_seconds_do_not_depend_on_who_came_first():
    shared = Shared()
    first, second = (run(shared, criterion="fisher", ratio=ratio) for ratio in (0.3, 0.5))
    assert second.seconds["score"] == pytest.approx(first.seconds["score"], rel=0.2)
    assert second.seconds["score"] > 0.1


def test_one_of_a_sort_is_held_at_a_time():
    shared, made = Shared(), []

    def make(value):
        return lambda: made.append(value) or value

    assert [shared.once("a", key, make(key)) for key in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert made == [1, 2, 1]
    assert shared.once("b", 1, make("b")) == "b"
    assert shared.once("a", 1, make("a")) == 1


def test_right_and_wrong_answers_are_told_image_by_image():
    result = prune("swin_micro", "magnitude", 0.5, evaluate=True)
    dense, small = result.correct
    assert dense.dtype == torch.bool
    assert len(small) == result.after.images
    assert 100 * dense.double().mean() == pytest.approx(result.before.top1, abs=1e-3)
    assert 100 * small.double().mean() == pytest.approx(result.after.top1, abs=1e-3)
    assert not torch.equal(dense, small)
    assert prune("swin_micro", "magnitude", 0.5).correct is None


def test_what_no_other_run_can_use_is_let_go():
    """Covariances of a large model are hundreds of megabytes."""
    for alone, made in ((True, 2), (False, 1)):
        shared, times = Shared(alone=alone), []
        for _ in range(2):
            shared.once("statistics", 1, lambda times=times: times.append(1))
            shared.release("statistics")
        assert len(times) == made


def test_a_run_alone_lets_statistics_go_before_it_repairs(monkeypatch):
    given = []
    monkeypatch.setattr(
        "prunekit.engine.Shared", lambda **options: given.append(Shared(**options)) or given[0]
    )
    found = []
    monkeypatch.setattr(
        "prunekit.pruning.slices.mended",
        lambda job, *_: (
            found.append(set(job.shared._held)) or prunekit.pruning.mending.mended(job, *_)
        ),
    )
    run(model="vit_micro", criterion="obs", repair="lstsq", calibration=32, evaluate=False)
    assert "scores" in found[0]
    assert "statistics" not in found[0]
