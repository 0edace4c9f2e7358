"""A budget of the latency of what torch.compile makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunekit import prune
from prunekit.cli import main
from prunekit.errors import BudgetError
from prunekit.measuring import compiling, saving
from prunekit.pruning import aiming, latency_table

pytestmark = pytest.mark.usefixtures("timed_quickly")
X = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 4096), nn.Linear(4096, 8)

    def forward(self, x):
        return self.down(self.up(x).relu())


@pytest.fixture(scope="module")
def compiler():
    try:
        compiling.check_compiles(torch.device("cpu"))
    except BudgetError as error:
        pytest.skip(str(error))


def by_latency(ratio=0.3, **options):
    torch.manual_seed(0)
    options = {"latency_batch": 256, "compile": True, "example_input": X, **options}
    return prune(Net(), "magnitude", ratio, by="latency", **options)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what compiles
def test_what_compiling_takes_is_not_timed(compiler, monkeypatch):
    """Compiling takes a second, a pass some milliseconds, and no pass is left out as a warm-up."""
    monkeypatch.setattr(saving, "SECONDS", 1e-9)
    timing = by_latency().rounds[0].timing
    assert timing.conditions.compiled
    for side in (timing.saving.dense, timing.saving.small):
        assert side.high < 300


def test_what_is_timed_was_compiled_and_has_run(monkeypatch):
    ran = []

    def marked(model, dynamic):
        assert dynamic is False  # or the second of two sizes would be compiled for any
        made = nn.Sequential(model)
        made.register_forward_hook(lambda *_: ran.append(made))
        return made

    monkeypatch.setattr(torch, "compile", marked)
    monkeypatch.setattr(aiming, "check_compiles", lambda device: None)

    def timed(models, *_, **__):
        assert all(type(model) is nn.Sequential for model in models)
        assert [model in ran for model in models] == [True] * len(models)
        return [[0.5 - 0.1 * number] * 3 for number in range(len(models))]

    monkeypatch.setattr(saving, "times", timed)
    monkeypatch.setattr(aiming, "times", timed)
    saved = by_latency(None, target_ms=400).rounds[0].timing.saving
    assert (saved.dense.median, saved.small.median) == (500, 400)


def test_without_a_compiler_nothing_is_timed(monkeypatch, tmp_path, capsys):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/no/such/compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(latency_table, "own_times", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(aiming, "times", lambda *_: pytest.fail("measured"))
    for asked in ("--ratio 0.2", "--target-ms 1"):
        words = f"run --arch vit_micro --by latency --compile {asked}"
        assert main(words.split()) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("prunekit: torch.compile does not work here (")
        assert "install a C++ compiler" in said


def test_a_model_that_cannot_be_compiled_is_named(monkeypatch):
    def fails(*_, **__):
        raise ValueError("no such operation")

    monkeypatch.setattr(torch, "compile", lambda model, **_: fails)
    with (
        pytest.raises(BudgetError, match=r"fails on Net \(ValueError: no such operation\); leave"),
        compiling.compiled([Net()], [X]),
    ):
        pass
