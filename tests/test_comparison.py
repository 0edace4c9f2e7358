"""Grids of runs: what they consist of, what they share, and that nothing is lost."""

import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_digits

import prunekit.comparison.timing
from prunekit import criterion, prune
from prunekit.cli import main
from prunekit.comparison.bench import Bench
from prunekit.comparison.cell import Cell
from prunekit.comparison.compare import compare, plan, report
from prunekit.comparison.grid import Grid
from prunekit.comparison.known import determinants, find_out, key_of, weights_digest
from prunekit.comparison.launch import Silent, run_here
from prunekit.comparison.pace import Pace
from prunekit.comparison.store import ARRAYS, CELL, Store
from prunekit.comparison.timing import shape_of, time_models, with_timing
from prunekit.criteria import CRITERIA
from prunekit.errors import ArtifactError, DataError, GridError, PruneError
from prunekit.inputs.architectures import build
from prunekit.inputs.data import fingerprint, open_data
from prunekit.measuring.counting import Latency
from prunekit.shared import Shared

KINDS = {"swin_micro": ("mlp", "head"), "convnext_micro": ("mlp",), "vit_micro": ("mlp", "head")}
TIMED = ("seconds", "latency_ms", "memory_bytes")  # of a report


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return str(write_digits(tmp_path_factory.mktemp("data") / "digits", test=50))


def words(digits, **changes):
    given = {"arch": "convnext_micro", "data": digits, "calibration": 32, "device": "cpu"}
    return {**given, "criterion": ["random", "taylor"], "ratio": [0.3, 0.6], **changes}


def grid(digits, **changes):
    return Grid.of(words(digits, **changes))


def timeless(value):
    """Drop what depends on how busy the machine is."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMED}
    return value


def same(first, second):
    """Whether two records say the same, apart from how long it took."""
    for left, right in ((first.scores, second.scores), (first.kept, second.kept)):
        assert list(left) == list(right)
        assert all(np.array_equal(left[name], right[name]) for name in left)
    assert np.array_equal(first.correct, second.correct)
    assert np.array_equal(first.dense_correct, second.dense_correct)
    assert timeless(first.report) == timeless(second.report)
    return (first.cell, first.problem) == (second.cell, second.problem)


# -- grids ------------------------------------------------------------------------------------


def test_a_grid_is_every_combination():
    made = Grid.of(
        {
            "arch": ["swin_micro", "vit_micro"],
            "criterion": ["random", "taylor"],
            "scope": ["axis", "model"],
            "repair": ["none", "lstsq"],
            "axes": ["mlp", "mlp+head"],
            "by": ["params", "macs"],
            "ratio": [0.3, 0.5],
            "seeds": 2,
            "finetune": ["none", "quick"],
        }
    )
    cells = made.cells(KINDS)
    assert len(set(cells)) == len(cells) == 2**9
    assert {cell.axes for cell in cells} == {("mlp",), ("mlp", "head")}


def test_one_seed_stands_for_all_where_it_makes_no_difference():
    made = Grid.of({"arch": "swin_micro", "criterion": "all", "repair": ["none", "lstsq"],
                    "seeds": 3, "finetune": ["none", "quick"]})  # fmt: skip
    seeds = {}
    for cell in made.cells(KINDS):
        seeds.setdefault((cell.criterion, cell.repair, cell.finetune), []).append(cell.seed)
    assert seeds["magnitude", "none", "none"] == [0]
    assert seeds["magnitude", "lstsq", "none"] == [0, 1, 2]  # calibration images differ
    assert seeds["magnitude", "none", "quick"] == [0, 1, 2]
    assert seeds["taylor", "none", "none"] == [0, 1, 2]
    assert seeds["random", "none", "none"] == [0, 1, 2]
    fixed = Grid.of({"arch": "swin_micro", "criterion": "random:seed=7", "seeds": 3})
    assert len(fixed.cells(KINDS)) == 1
    drawn = Grid.of({"arch": "swin_micro", "criterion": "lamp", "seeds": 3, "weights": "random"})
    assert len(drawn.cells(KINDS)) == 3


def test_cells_that_share_statistics_follow_each_other():
    made = Grid.of({"arch": "swin_micro", "criterion": "all", "seeds": 2, "ratio": [0.3, 0.5]})
    runs = [
        (cell.seed, CRITERIA.get(cell.criterion).needs)
        for cell in made.cells(KINDS)
        if CRITERIA.get(cell.criterion).needs != "nothing"
    ]
    changes = sum(a != b for a, b in itertools.pairwise(runs))
    assert changes == len(set(runs)) - 1


def test_scope_own_and_all_criteria_are_spelled_out():
    cells = Grid.of({"arch": "vit_micro", "criterion": "all"}).cells(KINDS)
    assert [cell.criterion for cell in cells] != []
    assert {cell.criterion for cell in cells} == set(CRITERIA.names())
    for cell in cells:
        assert cell.scope == CRITERIA.get(cell.criterion).scope


def test_a_grid_can_be_written_down(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(
        'arch = ["swin_micro"]\ncriterion = "dimap"\nratio = [0.5, 0.7]\nseeds = 2\nfloor = 0\n'
    )
    made = Grid.read(file, {"criterion": ("lamp", "magnitude:p=1")})
    assert made.criterion == ("lamp", "magnitude:p=1")
    assert (made.ratio, made.seeds, made.settings.floor) == ((0.5, 0.7), (0, 1), 0.0)
    assert Grid.of(made.to_json()) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "dimpa"}, r"'dimpa'. Did you mean 'dimap'"),
        ({"criterion": "magnitude:q=1"}, r"option of criterion 'magnitude' is called 'q'"),
        ({"arch": "swin_macro"}, r"'swin_macro'"),
        ({"repair": "lsqr"}, r"'lsqr'. Did you mean 'lstsq'"),
        ({"scope": "axes"}, r"'axes'. Did you mean 'axis'"),
        ({"by": "flops"}, r"'flops'"),
        ({"ratio": [0.5, 1.5]}, r"ratio is 1.5; expected"),
        ({"ratio": ["0.5"]}, r"ratio = '0.5', which is str; expected float"),
        ({"ratio": []}, r"lists no ratio"),
        ({"criterion": ["dimap", "dimap"]}, r"criterion 'dimap' twice"),
        ({"seeds": 0}, r"0 seeds; expected 1 or more"),
        ({"seeds": [0, 1.5]}, r"seeds = 1.5"),
        ({"finetune": "quickly"}, r"'quickly'. Did you mean 'quick'"),
        ({"flor": 0.2}, r"'flor'. Did you mean 'floor'"),
        ({"floor": "low"}, r"floor = 'low', which is str; expected one float"),
        ({"steps": 0}, r"0"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_be_run_is_refused_in_a_sentence(changes, message):
    with pytest.raises(PruneError, match=message):
        Grid.of({"arch": "swin_micro", "criterion": "dimap", **changes})


def test_a_grid_needs_an_architecture_and_images(tmp_path):
    with pytest.raises(GridError, match="names no architecture"):
        Grid.of({"criterion": "dimap"})
    with pytest.raises(DataError, match=r"vit_ti has no images.*--data"):
        find_out(Grid.of({"arch": "vit_ti", "weights": "random"}), "vit_ti", Shared())


# -- keys -------------------------------------------------------------------------------------


def keys(made):
    return [job.key for job in plan(made)]


def test_the_kinds_of_a_cell_are_those_that_the_model_has(digits):
    known = find_out(grid(digits, arch="resnet_micro"), "resnet_micro", Shared())
    assert known.default_kinds == ("conv",)


def test_a_key_depends_on_everything_that_matters(digits, tmp_path):
    known = find_out(grid(digits), "convnext_micro", Shared())
    cell = Cell("convnext_micro", "taylor", "kind", "none", ("mlp",), "params", 0.5, 0)

    def key(cell=cell, known=known, **changes):
        return key_of(determinants(cell, grid(digits, **changes), known))

    assert key() == key()
    changed = [
        key(replace(cell, arch="swin_micro")),
        key(replace(cell, criterion="fisher")),
        key(floor=0.2),
        key(replace(cell, scope="axis")),
        key(replace(cell, repair="lstsq")),
        key(replace(cell, axes=("mlp", "head"))),
        key(replace(cell, by="macs")),
        key(replace(cell, ratio=0.51)),
        key(replace(cell, seed=1)),
        key(replace(cell, finetune="quick")),
        key(multiple=4),
        key(steps=2),
        key(calibration=31),
        key(known=replace(known, weights="other")),
        key(known=replace(known, data="other")),
        key(known=replace(known, adapter="other")),
        key(known=replace(known, device="cuda")),
    ]
    assert len({key(), *changed}) == 1 + len(changed)


def test_a_key_does_not_depend_on_what_else_is_in_the_grid(digits):
    alone = keys(grid(digits, criterion="taylor", ratio=0.6))
    assert set(alone) < set(keys(grid(digits)))
    magnitude = {"criterion": "magnitude", "ratio": 0.6}
    assert keys(grid(digits, **magnitude, seeds=3)) == keys(grid(digits, **magnitude, seeds=(2,)))
    assert keys(grid(digits, **magnitude)) == keys(grid(digits, **magnitude, calibration=8))


def test_another_version_is_another_key(digits, monkeypatch):
    before = keys(grid(digits))
    monkeypatch.setattr("prunekit.comparison.known.versions", lambda: {"torch": "0"})
    assert not set(before) & set(keys(grid(digits)))


def test_changed_code_of_a_criterion_is_another_key(digits, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for power in (1, 2):
        module = tmp_path / f"mine{power}.py"
        module.write_text(
            "from prunekit import criterion\n"
            "@criterion('test_mine')\n"
            "def mine(axes):\n"
            f"    return [axis.reduce(lambda m: m.weight.abs() ** {power}) for axis in axes]\n"
        )
        try:
            __import__(module.stem)
            found.append(keys(grid(digits, criterion="test_mine")))
        finally:
            CRITERIA._loaded.pop("test_mine", None)
    assert not set(found[0]) & set(found[1])


def test_fingerprints_tell_data_and_weights_apart(tmp_path):
    model = build("convnext_micro").model
    before = weights_digest(model)
    with torch.no_grad():
        model.head.fc.bias[0] += 1e-3
    assert weights_digest(model) != before
    data = open_data(str(write_digits(tmp_path / "a")), model)
    again = open_data(str(write_digits(tmp_path / "b")), model)
    assert fingerprint(data) == fingerprint(again)
    next((tmp_path / "b" / "train").rglob("*.png")).unlink()
    assert fingerprint(data) != fingerprint(open_data(str(tmp_path / "b"), model))
    mini = open_data("fashion-mnist-mini", model)
    digest = fingerprint(mini)
    mini.test.labels[0] += 1
    assert fingerprint(mini) != digest


# -- cells ------------------------------------------------------------------------------------


def test_a_cell_is_an_ordinary_run(digits):
    made = grid(digits, ratio=0.6, repair=["none", "lstsq"], seeds=2)
    bench = Bench(made)
    for job in plan(made):
        cell = job.cell
        record = bench.run(cell)
        alone = prune(
            cell.arch, cell.criterion, cell.ratio, repair=cell.repair, data=digits,
            calibration=32, evaluate=True, device="cpu", seed=cell.seed,
        )  # fmt: skip
        assert timeless(record.report) == timeless(alone.report())
        assert np.array_equal(record.correct, alone.correct[1].numpy())
        assert {name: tuple(kept) for name, kept in record.kept.items()} == alone.plan.kept


def test_a_cell_knows_what_its_scores_cost(digits):
    made = grid(digits, criterion=["magnitude", "taylor"], ratio=0.5)
    costs = {job.cell.criterion: Bench(made).run(job.cell).cost for job in plan(made)}
    assert (costs["magnitude"].images, costs["taylor"].images) == (0, 32)
    weights = 4 * 360_000
    assert costs["taylor"].peak_bytes > weights > costs["magnitude"].peak_bytes > 0
    assert min(cost.seconds for cost in costs.values()) > 0


def test_a_sentence_is_a_result_and_anything_else_a_failure(digits, tmp_path):
    @criterion("test_breaks")
    def breaks(axes):
        raise MemoryError("too large")

    try:
        made = grid(digits, criterion=["test_breaks", "magnitude"], ratio=[0.5, 0.99])
        findings, failures = compare(made, tmp_path / "out")
        again = compare(made, tmp_path / "out")[1]
    finally:
        CRITERIA._loaded.pop("test_breaks")
    assert [failure.cell.ratio for failure in failures] == [0.5, 0.99]
    for failure in failures:
        assert "'test_breaks'" in failure.reason
        assert "MemoryError: too large" in failure.reason
    assert len(again) == 2  # tried once more
    records = stored(made, tmp_path / "out", missing=True)
    problems = {r.cell.ratio: r.problem for r in records if r.cell.criterion == "magnitude"}
    assert problems[0.5] is None
    assert "0.99" in problems[0.99] or "99" in problems[0.99]
    assert findings.origin.missing == 2


def test_images_that_were_away_are_looked_for_again(digits, tmp_path):
    away = [DataError("The images are away.")]

    @criterion("test_away")
    def scores(axes):
        if away:
            raise away.pop()
        return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]

    try:
        made = grid(digits, criterion=["test_away", "magnitude"], ratio=0.5)
        findings, failures = compare(made, tmp_path)
        (failure,) = failures
        assert "The images are away." in failure.reason
        assert findings.origin.missing == 1
        findings, failures = compare(made, tmp_path)
    finally:
        CRITERIA._loaded.pop("test_away")
    assert (failures, findings.origin.missing) == ([], 0)


def stored(made, out, missing=False):
    store = Store(Path(out))
    found = [job.key for job in plan(made)] if not missing else os.listdir(Path(out) / "cells")
    return [store.read(key) for key in found]


# -- the store --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A small comparison that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished")
    made = grid(digits, seeds=2)
    compare(made, out, command="prunekit compare --test")
    return made, out


def test_records_survive_the_disk(finished, tmp_path):
    made, out = finished
    store = Store(tmp_path / "new")
    store.prepare()
    for job in plan(made):
        record = Store(out).read(job.key)
        store.write(job.key, record, job.determined_by)
        assert same(store.read(job.key), record)
        written = json.loads((tmp_path / "new" / "cells" / job.key / CELL).read_text())
        assert key_of(written["determined_by"]) == job.key


def test_a_second_run_computes_nothing(finished, monkeypatch):
    made, out = finished
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("computed again"))
    compare(made, out)


def test_only_what_is_missing_is_computed(finished, tmp_path, monkeypatch):
    made, out = finished
    jobs = plan(made)
    store = Store(tmp_path)
    store.prepare()
    for job in jobs[1:]:
        store.write(job.key, Store(out).read(job.key), job.determined_by)
    ran = []
    real = Bench.run
    monkeypatch.setattr(
        Bench, "run", lambda self, cell, *rest: ran.append(cell) or real(self, cell, *rest)
    )
    compare(made, tmp_path)
    assert ran == [jobs[0].cell]


def test_a_cell_that_was_tampered_with_is_named(finished, tmp_path):
    made, out = finished
    key = plan(made)[0].key
    store = Store(tmp_path)
    store.prepare()
    store.write(key, Store(out).read(key), {})
    (tmp_path / "cells" / key / ARRAYS).write_bytes(b"PK nonsense")
    with pytest.raises(ArtifactError, match=f"{key} is not readable.*remove it"):
        store.read(key)


def test_what_cannot_be_written_leaves_nothing(finished, tmp_path):
    made, out = finished
    job = plan(made)[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        Store(tmp_path / "file").prepare()
    with pytest.raises(ArtifactError, match="cannot be written"):
        Store(tmp_path / "absent").write(job.key, Store(out).read(job.key), {})
    assert not (tmp_path / "absent").exists()


def work(made_words, out):
    """Run a grid; what a child process does until it is killed."""
    torch.set_num_threads(1)
    compare(Grid.of(made_words), out)


@pytest.fixture(scope="module")
def children():
    """A server that forks processes in which everything is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["prunekit.comparison.compare", "timm", "torchvision", "prunekit.comparison.pages"]
    )
    return context


def test_killed_at_random_moments_nothing_is_lost(digits, finished, children, tmp_path):
    made, out = finished
    chance = random.Random(0)
    done, kills = 0, 0
    while True:
        child = children.Process(target=work, args=(words(digits, seeds=2), tmp_path))
        child.start()
        child.join(timeout=chance.uniform(0.5, 4.0))
        if child.exitcode is not None:
            assert child.exitcode == 0
            break
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        there = {p.name for p in (tmp_path / "cells").glob("[!.]*")}
        assert len(there) >= done  # what is there stays there
        done = len(there)
        for key in there:
            Store(tmp_path).read(key)  # whole
        if kills == 12:  # a busy machine is given time to come to an end
            chance.uniform = lambda *_: 600
    assert kills > 0
    assert all(map(same, stored(made, tmp_path), stored(made, out)))
    assert list((tmp_path / "cells").glob(".*")) == []


def test_two_processes_share_the_work(digits, finished, children, tmp_path):
    made, out = finished
    pair = [
        children.Process(target=work, args=(words(digits, seeds=2), tmp_path)) for _ in range(2)
    ]
    for child in pair:
        child.start()
    for child in pair:
        child.join()
        assert child.exitcode == 0
    assert all(map(same, stored(made, tmp_path), stored(made, out)))


def test_a_cell_is_claimed_by_one_at_a_time(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    with store.claim("a", wait=False) as first, Store(tmp_path).claim("a", wait=False) as second:
        assert (first, second) == (True, False)
    with Store(tmp_path).claim("a", wait=False) as third:
        assert third


def test_cells_begun_by_a_process_that_died_are_run_by_another(digits, tmp_path, monkeypatch):
    made = grid(digits, criterion="magnitude", ratio=[0.5])
    (job,) = plan(made)
    store = Store(tmp_path)
    store.prepare()
    claims = []
    real = Store.claim

    def claim(self, key, *, wait):
        claims.append((key, wait))
        return real(self, key, wait=wait) if wait else refused()

    monkeypatch.setattr(Store, "claim", claim)
    assert run_here(made, [job], store, Silent()) == []
    assert claims[-1] == (job.key, True)
    assert store.has(job.key)


class refused:
    def __enter__(self):
        return False

    def __exit__(self, *_):
        pass


def test_pace_knows_sorts_of_cells():
    base = Cell("a", "x", "kind", "none", ("mlp",), "params", 0.5, 0)
    cells = [replace(base, arch=arch, ratio=r) for arch in "ab" for r in (0.1, 0.2, 0.3)]
    pace = Pace(cells)
    assert pace.seconds_left() == (0, False)
    pace.add(cells[0], 2.0)
    assert pace.seconds_left() == (4.0, False)
    pace.add(cells[3], 5.0)
    assert pace.seconds_left() == (14.0, True)
    assert (pace.done, pace.total) == (2, 6)


# -- speed ------------------------------------------------------------------------------------


def test_models_of_one_shape_are_timed_once(finished, monkeypatch):
    made, out = finished
    store = Store(out)
    records = [store.read(job.key) for job in plan(made)]
    shapes = {shape_of(record) for record in records}
    counts = {tuple(map(len, record.kept.values())) for record in records}
    assert len(shapes) == len(counts) > 1
    assert shapes == set(store.read_timing()["shapes"])
    timed = with_timing(records, store)
    for record in timed:
        assert set(record.timing.dense) == set(record.timing.small) == {"1", "8"}
        assert min(record.timing.dense.values()) > 0
    by_shape = {shape_of(record): record.timing for record in timed}
    assert all(record.timing == by_shape[shape_of(record)] for record in timed)
    monkeypatch.setattr("prunekit.comparison.timing.latencies", lambda *_: pytest.fail("again"))
    time_models(made, records, store)


def test_times_of_another_machine_do_not_count(finished, tmp_path, monkeypatch):
    made, out = finished
    store = Store(tmp_path)
    store.prepare()
    store.write_timing({**Store(out).read_timing(), "where": {"device": "another"}})
    records = [Store(out).read(job.key) for job in plan(made)][:1]
    counted = []
    real = prunekit.comparison.timing.latencies
    monkeypatch.setattr(
        "prunekit.comparison.timing.latencies", lambda *given: counted.append(1) or real(*given)
    )
    time_models(made, records, store)
    assert len(counted) == len(store.read_timing()["shapes"]) == 1


def test_what_is_timed_is_the_small_model(finished, monkeypatch):
    made, out = finished
    seen = []

    def latencies(models, example):
        seen.extend(sum(p.numel() for p in model.parameters()) for model in models)
        return [dict.fromkeys((1, 8), Latency(1.0, 1.0, 1.0))] * 2

    monkeypatch.setattr("prunekit.comparison.timing.latencies", latencies)
    store = Store(out.parent / "timed")
    store.prepare()
    record = Store(out).read(plan(made)[0].key)
    time_models(made, [record], store)
    assert seen == [record.report["before"]["params"], record.report["after"]["params"]]


# -- as a user --------------------------------------------------------------------------------


def flags(digits, *more):
    grid = "--arch convnext_micro --criterion random,taylor --ratio 0.3,0.6 --calibration 32"
    return ["compare", *grid.split(), "--device", "cpu", "--data", digits, *more]


def test_flags_are_the_words_of_the_grid(digits, finished, monkeypatch, capsys):
    _, out = finished
    monkeypatch.setattr(Bench, "run", lambda *_: pytest.fail("computed again"))
    assert main(flags(digits, "--seeds", "2", "--out", str(out))) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "convnext_micro" in printed
    assert "cells 8 of 8" in printed
    assert all((out / f"report.{kind}").is_file() for kind in ("html", "md", "csv", "json"))


def test_names_with_options_are_split_at_the_right_commas():
    from prunekit.cli.compare import seeds, specs

    assert specs("vbp,magnitude:p=1,scale=2,dimap") == ("vbp", "magnitude:p=1,scale=2", "dimap")
    assert (seeds("3"), seeds("3,5")) == (3, (3, 5))


def test_a_report_is_made_again_from_its_cells(finished, capsys):
    _, out = finished
    before = json.loads((out / "report.json").read_text())
    for page in out.glob("report.*"):
        page.unlink()
    assert main(["compare", "--report-only", str(out)]) == 0
    after = json.loads((out / "report.json").read_text())
    assert after["standings"] == before["standings"]
    rows = [row for standing in after["standings"] for row in standing["rows"]]
    assert all(row["speedup"]["8"] > 0 for row in rows)
    assert main(["compare", "--report-only", str(out.parent / "nowhere")]) == 2
    assert "is not a comparison" in capsys.readouterr().err


def test_a_report_can_be_made_of_a_part(finished, tmp_path):
    made, out = finished
    store = Store(tmp_path)
    store.prepare()
    store.write_grid(Store(out).read_grid())
    with pytest.raises(GridError, match="has none of its 8 cells yet"):
        report(tmp_path)
    job = plan(made)[0]
    store.write(job.key, Store(out).read(job.key), job.determined_by)
    assert report(tmp_path).origin.missing == 7


def test_branches_that_left_are_kept_and_read_again(tmp_path):
    grid = Grid(
        arch=("vit_micro",), criterion=("magnitude", "lamp"), axes=("mlp+block",), scope=("kind",),
        ratio=(0.2,),
    )  # fmt: skip
    compare(grid, tmp_path)
    records = [Store(tmp_path).read(job.key) for job in plan(grid)]
    for record in records:
        gone = {name for name, slices in record.kept.items() if not len(slices)}
        assert gone
        assert all(name.endswith(".block") for name in gone)
    found = report(tmp_path)
    assert not [row.problem for row in found.standings[0].rows if row.problem]
    assert any(agreement.part == "block" for agreement in found.agreements)


def test_a_report_shows_the_sensitivities_that_lie_beside_it(finished):
    _, out = finished
    assert report(out).sensed == ()
    words = ["sensitivity", "--arch", "vit_micro", "--criterion", "magnitude", "--quiet"]
    words += ["--include", "blocks.0.mlp", "--ratios", "0.5", "--calibration", "16"]
    place = out / "sensitivity" / "some"
    assert main([*words, "--out", str(place)]) == 0
    (found,) = report(out).sensed
    assert (found.arch, found.criterion, found.images) == ("vit_micro", "magnitude", 16)
    assert [(cut.axis, cut.gone) for cut in found.cuts] == [("blocks.0.mlp", 0.5)]
    assert "blocks.0.mlp" in (out / "report.html").read_text()
    shutil.rmtree(out / "sensitivity")


def test_a_dry_run_lists_cells_and_estimates(digits, finished, tmp_path, capsys):
    _, out = finished
    assert main(flags(digits, "--seeds", "3", "--out", str(out), "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert printed.count("(there)") == 8
    assert "12 cells, 8 of them there" in printed
    assert "about 0:" in printed
    assert len(list((out / "cells").iterdir())) == 8


def test_bad_input_is_refused_before_anything_is_written(digits, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(flags(digits, "--scope", "axes", "--out", str(out))) == 2
    assert main(flags(digits, "--axes", "width,nose", "--out", str(out))) == 2
    assert main(flags(digits)) == 2
    assert main(["compare", "--grid", str(tmp_path / "no.toml"), "--out", str(out)]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4
    assert "nose" in errors[1]
    assert "--out" in errors[2]
    assert not out.exists()


def test_missing_packages_are_named_before_the_work_begins(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("prunekit.comparison.compare.PACKAGES", ("jinja2", "no_such_package"))
    with pytest.raises(GridError, match=r"no_such_package.*pip install 'prunekit\[compare\]'"):
        compare(grid(digits), tmp_path)


def test_criteria_of_other_people_are_compared_by_name(digits, tmp_path):
    @criterion("test_theirs")
    def theirs(axes):
        return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]

    try:
        findings, _ = compare(grid(digits, criterion=["test_theirs", "random"]), tmp_path)
        assert "test_theirs" in Grid.of({"arch": "swin_micro", "criterion": "all"}).criteria()
    finally:
        CRITERIA._loaded.pop("test_theirs")
    assert {row.criterion for row in findings.standings[0].rows} == {"test_theirs", "random"}


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(digits, finished, tmp_path):
    made, out = finished
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "prunekit", *flags(digits, "--seeds", "2")]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list((tmp_path / "cells").glob("[!.]*")) and child.poll() is None:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.communicate()[1]
    assert child.returncode == 130
    assert "of 8 cells are done, and the same command goes on" in said
    assert "Traceback" not in said
    assert main(flags(digits, "--seeds", "2", "--out", str(tmp_path))) == 0
    assert all(map(same, stored(made, tmp_path), stored(made, out)))
