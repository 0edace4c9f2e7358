"""Artifacts on disk: old ones are readable, forged ones refused, none is seen half-replaced."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import toy
from rich.console import Console
from safetensors.torch import load_file, save_file

import prunekit
from prunekit.artifact import (
    PLAN,
    REPORT,
    WEIGHTS,
    check_writable,
    masks_of,
    open_artifact,
    read_history,
    read_plan,
    read_report,
)
from prunekit.cli import main
from prunekit.errors import ArtifactError, PruneError
from prunekit.files import replacing
from prunekit.inputs.data import batches, open_data
from prunekit.report import render

DATA = Path(__file__).parent / "data"
SLICES, WEIGHT_LEVEL = DATA / "artifact-0.1.0-slices", DATA / "artifact-0.1.0-weights"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(prunekit.__file__).parents[1])}


@pytest.fixture
def saved(tmp_path):
    return Path(shutil.copytree(SLICES, tmp_path / "saved"))


# -- of before ---------------------------------------------------------------------------------


def test_an_old_artifact_of_slices_computes_what_it_did():
    model = prunekit.load(SLICES)
    images = open_data("fashion-mnist-mini", model).test
    right = 0
    with torch.inference_mode():
        outputs = model(next(iter(batches(images, 1)))[0])[0]
        for x, y in islice(batches(images, 100), 2):
            right += int((model(x).argmax(1) == y).sum())
    expected = [-0.116509, -0.058627, -0.136367, -0.144727, 0.367254]
    torch.testing.assert_close(outputs[:5], torch.tensor(expected), atol=1e-4, rtol=0)
    assert right == 37


def test_an_old_artifact_of_masks_computes_what_it_did():
    original, images = toy("vit")
    model = prunekit.load(WEIGHT_LEVEL, model=original)
    with torch.inference_mode():
        outputs = model(images)
    expected = torch.tensor([[-0.148386, -0.674900, 0.171235], [0.163938, -0.766125, 0.646691]])
    torch.testing.assert_close(outputs[:, :3], expected, atol=1e-4, rtol=0)
    assert sum(int(mask.sum()) for mask in masks_of(WEIGHT_LEVEL, model).values()) == 10_686


@pytest.mark.parametrize("old", [SLICES, WEIGHT_LEVEL], ids=lambda path: path.name)
def test_an_old_artifact_is_shown_as_it_was_written(old, capsys):
    assert main(["show", str(old), "--json"]) == 0
    written = json.loads((old / REPORT).read_text())
    del written["sha256"]
    shown = json.loads(capsys.readouterr().out)
    assert {key: shown.get(key) for key in written} == written
    assert main(["show", str(old)]) == 0
    assert read_history(old) == []


def test_an_opened_artifact_can_be_pruned_further():
    """What `run --arch DIR` needs: the plan of the second cut, told of the original model."""
    opened = open_artifact(SLICES)
    assert opened.architecture.name == "vit_micro"
    assert (opened.adapter.name, opened.masks) == ("vit", {})
    assert opened.report["recipe"]["criterion"] == "dimap"
    again = prunekit.prune(opened.model, "magnitude", 0.2, axes=("mlp",))
    for name, kept in again.plan.kept.items():
        assert set(kept) <= set(opened.plan.kept[name])
    assert len(again.plan.kept["blocks.0.mlp"]) < len(opened.plan.kept["blocks.0.mlp"])


# -- forged ------------------------------------------------------------------------------------


def forge(saved, *, plan=lambda plan: None, report=lambda report: None):
    """Alter plan and report, and all digests of them."""
    data = json.loads((saved / PLAN).read_text())
    plan(data)
    data["weights_sha256"] = hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    (saved / PLAN).write_text(json.dumps(data))
    told = json.loads((saved / REPORT).read_text())
    report(told)
    told["plan_sha256"] = hashlib.sha256((saved / PLAN).read_bytes()).hexdigest()
    told.pop("sha256", None)
    told["sha256"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (saved / REPORT).write_text(json.dumps(told))


def built(**changes):
    return lambda plan: plan["architecture"].update(changes)


def arguments(**changes):
    return lambda plan: plan["architecture"]["args"].update(changes)


PLANS = {
    "from-a-hub": (built(card=None, timm="hf-hub:evil/repo"), "should match pattern"),
    "from-a-folder": (built(card=None, timm="local-dir:/tmp"), "should match pattern"),
    "unknown": (built(card=None, timm="evilnet", args={}), "'evilnet', which timm .* does not"),
    "of-nothing": (built(card=None, args={}), "is None, which timm"),
    "reads-files": (
        built(card=None, timm="vit_tiny_patch16_224", args={"checkpoint_path": "/etc/passwd"}),
        "never writes: checkpoint_path",
    ),
    "pretrained": (
        built(card=None, timm="vit_tiny_patch16_224", args={"pretrained": True}),
        "never writes: pretrained",
    ),
    "another-model": (built(card=None, timm="vit_large_patch16_224", args={}), "do not fit"),
    "deep": (arguments(depth=10_000), "many more layers than the weights"),
    "deeper-by-one": (arguments(depth=11), "blocks.10.* cannot be what is left"),
    "wide": (arguments(mlp_ratio=1000.0), "64,000|values and the weights"),
    "very-wide": (arguments(embed_dim=2**20), "values and the weights|out of memory|size"),
    "unknown-argument": (arguments(colour="blue"), "cannot be built .*colour"),
    "heads": (arguments(num_heads=7), "cannot be built"),
    "large-images": (
        lambda plan: plan["architecture"]["card"].update(input_size=[1, 9999, 9999]),
        "pixels",
    ),
    "other-dtype": (lambda plan: plan.update(dtype="float64"), "expected torch.float64"),
    "huge-axis": (
        lambda plan: plan["plan"]["axes"]["blocks.0.mlp"].update(size=10**9),
        "plan.axes.blocks.0.mlp.size",
    ),
}


@pytest.mark.parametrize("forgery", PLANS)
def test_a_forged_plan_is_refused_before_it_costs_anything(forgery, saved, monkeypatch):
    change, expected = PLANS[forgery]
    forge(saved, plan=change)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went online"))
    began = time.perf_counter()
    with pytest.raises(PruneError, match=expected) as caught:
        prunekit.load(saved)
    assert time.perf_counter() - began < 20
    assert str(caught.value).isprintable()


def test_the_library_still_loads_what_is_registered_with_timm(tmp_path):
    made = prunekit.prune("vit_ti", "magnitude", 0.5, weights="random", evaluate=False)
    made.save(tmp_path / "saved")
    x = torch.randn(1, *made.model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        assert torch.equal(prunekit.load(tmp_path / "saved")(x), made.model(x))


def at(*place, value):
    def change(report):
        for key in place[:-1]:
            report = report[key]
        report[place[-1]] = value

    return change


REPORTS = {
    "kept-more": (at("axes", "width", "kept", value=10**9), "axes.width: keeps 1000000000 of 64"),
    "negative": (at("before", "params", value=-5), "before.params"),
    "zero": (at("before", "macs", value=0), "before.macs"),
    "percent": (at("after", "top1", value=101.0), "after.top1"),
    "no-time": (at("after", "latency_ms", "1", "median", value=0), "after.latency_ms.1.median"),
    "batches": (at("after", "latency_ms", value={}), "lacks batch sizes"),
    "no-accuracy": (at("after", "top1", value=None), "top1 is given before and not after"),
    "no-rounds": (at("rounds", value=[]), "rounds"),
    "untrained": (at("recipe", "finetune", value={"epochs": 1}), "a round is not trained"),
    "unproved": (at("parity", value=None), "neither parity nor masking"),
    "unplanned": (at("recipe", "ratio", value="half"), "recipe.ratio"),
    "red": (at("recipe", "arch", value="\x1b[31mred"), "recipe.arch has the control character"),
    "redder": (at("warnings", value=["\x9b31m"]), "warnings.0 has the control character"),
    "hidden": (at("more", value={"\x1b]0;title": 1}), "more has the control character"),
    "a-list": (at("files", value=[1]), "files"),
    "other-files": (at("files", value={"../../etc/passwd": "0" * 64}), r"passwd' is missing"),
}


@pytest.mark.parametrize("forgery", REPORTS)
def test_a_forged_report_is_one_sentence(forgery, saved, capsys):
    change, expected = REPORTS[forgery]
    forge(saved, report=change)
    with pytest.raises(ArtifactError, match=expected):
        read_report(saved)
    assert main(["show", str(saved)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "\x1b" not in err


BAD = (None, True, -1, 10**12, 0.5, "", "x", [], [1], {}, {"a": {}})


def leaves(value, place=()):
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value[:1]):
        yield (*place, key)
        if isinstance(entry, dict | list):
            yield from leaves(entry, (*place, key))


def test_whatever_a_report_says_it_is_shown_or_refused(saved):
    told = json.loads((saved / REPORT).read_text())
    told["axes"] = dict(list(told["axes"].items())[:1])
    places = list(leaves(told))
    assert len(places) > 90
    shown = 0
    for number, place in enumerate(places):
        for bad in (BAD[number % len(BAD)], BAD[(number + 5) % len(BAD)]):
            forge(saved, report=at(*place, value=bad))
            with suppress(ArtifactError):
                report = read_report(saved)
                Console(file=io.StringIO(), width=100).print(render(report))
                shown += 1
            shutil.copy(SLICES / REPORT, saved / REPORT)
    assert shown > 10


def test_a_folder_that_only_a_report_names_is_not_walked(saved, tmp_path, monkeypatch, capsys):
    forge(saved, report=at("recipe", "data", value="../../.."))
    monkeypatch.setattr("prunekit.inputs.data._folder", lambda *_: pytest.fail("walked"))
    for command in (["eval"], ["finetune", "--out", str(tmp_path / "out")]):
        assert main([*command, str(saved)]) == 2
        said = capsys.readouterr().err
        assert "the folder '../../..', and a folder that only a file names is not read" in said
        assert said.endswith("add --data ../../...\n")
    assert not (tmp_path / "out.training").exists()


# -- replaced ----------------------------------------------------------------------------------


def test_names_that_a_terminal_would_act_on_are_spelled_out_when_saved(tmp_path):
    result = prunekit.prune("vit_micro", "magnitude", 0.5, evaluate=False)
    odd = {**result.recipe, "data": "digits\x1b[2J", "weights": "a\udcff"}
    replace(result, recipe=odd).save(tmp_path / "saved")
    recipe = read_report(tmp_path / "saved")["recipe"]
    assert (recipe["data"], recipe["weights"]) == (r"digits\x1b[2J", r"a\udcff")


WRITER = """
import shutil, sys, time
from pathlib import Path
from prunekit.files.replacing import replacing, settled
from prunekit.files import replacing as module
from prunekit.files.stored import is_artifact
sources, target, seconds = sys.argv[1].split(","), sys.argv[2], float(sys.argv[3])
if len(sys.argv) > 4:
    module.exchange = lambda *_: False
end, n = time.monotonic() + seconds, 0
while time.monotonic() < end:
    with replacing(settled(target, is_artifact)) as partial:
        for path in Path(sources[n % len(sources)]).iterdir():
            shutil.copy(path, partial)
    n += 1
print(n)
"""


@pytest.mark.parametrize("way", ["exchanged", "renamed"])
def test_reading_beside_a_writer_sees_one_artifact_or_the_other(way, saved, tmp_path):
    other = Path(shutil.copytree(saved, tmp_path / "other"))
    weights = load_file(other / WEIGHTS)
    save_file({**weights, "head.bias": weights["head.bias"] + 1}, other / WEIGHTS)
    forge(other, report=at("recipe", "seed", value=1))
    target = tmp_path / "target"
    shutil.copytree(saved, target)
    command = [sys.executable, "-c", WRITER, f"{other},{saved}", target, "4"]
    seen, reads = set(), 0
    with subprocess.Popen(
        [*command, *(["renamed"] if way == "renamed" else [])],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    ) as writer:
        while writer.poll() is None:
            plan, report = read_plan(target), read_report(target)
            seen.add((plan["weights_sha256"][:4], report["recipe"]["seed"]))
            reads += 1
        assert int(writer.stdout.read()) > 20
    assert writer.returncode == 0
    assert reads > 50
    assert {seed for _, seed in seen} == {0, 1}


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from prunekit.files import replacing as module
from prunekit.files.stored import is_artifact
source, target, moment = sys.argv[1:]
module.exchange = lambda *_: False
rename, calls = os.rename, []
def counted(*names):
    calls.append(names)
    if len(calls) == int(moment):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)
os.rename = counted
with module.replacing(module.settled(target, is_artifact)) as partial:
    for path in Path(source).iterdir():
        shutil.copy(path, partial)
"""


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_an_artifact_survives_kill_9_while_it_is_replaced(moment, saved, tmp_path, caplog):
    other = Path(shutil.copytree(saved, tmp_path / "other"))
    forge(other, report=at("recipe", "seed", value=1))
    home = tmp_path / "home"
    target = Path(shutil.copytree(saved, home / "target"))
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, other, target, str(moment)], env=ENVIRONMENT, check=False
    )
    assert ran.returncode == -signal.SIGKILL
    assert target.exists() == (moment != 2)
    found = read_report(target)["recipe"]["seed"]
    assert found == (0 if moment == 1 else 1)  # the new one was whole when the old one moved
    assert ("killed while it replaced" in caplog.text) == (moment == 2)
    check_writable(target)
    assert [path for path in home.iterdir() if path.name.endswith(replacing.ASIDE)] == []
    assert read_report(target)["recipe"]["seed"] == found


def test_what_is_being_written_may_have_an_artifact_written_into_it(tmp_path):
    inside = """
import sys
from prunekit.files import replacing as module
def write(place):
    return module.replacing(module.settled(place, lambda _: False))
with write(sys.argv[1]) as partial, write(partial / "inner") as inner:
    (inner / "file").write_text("written")
"""
    # In a process of its own, since one that waits for its own lock does so forever.
    command = [sys.executable, "-c", inside, tmp_path / "target"]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=30)
    assert (tmp_path / "target" / "inner" / "file").read_text() == "written"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


WRITING = """
import sys, time
from prunekit.files import replacing as module
with module.replacing(module.settled(sys.argv[1], lambda _: False)) as partial:
    (partial / "half").write_text("written")
    print(partial, flush=True)
    time.sleep(60)
"""


def test_the_next_writer_removes_what_a_killed_one_left_but_not_what_is_being_written(tmp_path):
    command = [sys.executable, "-c", WRITING, tmp_path / "target"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as writer:
        partial = Path(writer.stdout.readline().strip())
        check_writable(tmp_path / "target")
        during = list(tmp_path.iterdir())
        writer.kill()
    assert during == [partial]
    assert (partial / "half").exists()
    check_writable(tmp_path / "other")
    assert list(tmp_path.iterdir()) == [partial]
    check_writable(tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


HALF_WRITTEN = """
import sys, time
from prunekit import cli
from prunekit.exporting import export
def half(sizes, to, place, **options):
    (place / "model.onnx").write_text("half")
    print(place, flush=True)
    time.sleep(60)
export._write = half
sys.exit(cli.main(["export", sys.argv[1], "--to", "hub-folder"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_while_it_writes_leaves_nothing(saved, tmp_path, number):
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, saved],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        partial = Path(process.stdout.readline().decode().strip())
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert partial.parent == tmp_path
    assert process.returncode == 128 + number
    assert err.decode() == "prunekit: interrupted; nothing was saved.\n"
    assert list(tmp_path.iterdir()) == [saved]


def test_other_hidden_directories_are_left_alone(saved):
    mine = saved.with_name(".saved.deadbeef.old")
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    check_writable(saved)
    shutil.rmtree(saved)
    with pytest.raises(ArtifactError, match="There is no directory"):
        read_report(saved)
    check_writable(saved)
    assert (mine / "thesis.tex").read_text() == "years of work"


# -- where it goes -----------------------------------------------------------------------------


def test_a_link_is_followed(saved, tmp_path):
    result = prunekit.prune("vit_micro", "magnitude", 0.2, evaluate=False)
    for link, to in (("dangling", "new"), ("linked", "saved")):
        (tmp_path / link).symlink_to(to)
        result.save(tmp_path / link)
        assert (tmp_path / link).is_symlink()
        assert read_report(tmp_path / to)["asked"] == 0.2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["dangling", "linked", "new", "saved"]
    )


@pytest.mark.parametrize("how", [".", "", "./", "../here"])
def test_the_current_directory_is_refused_before_the_work(how, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ArtifactError, match=r"is the directory you are in.* such as '.*pruned'"):
        check_writable(how)
    assert check_writable(os.path.join(how, "pruned")) == tmp_path / "here" / "pruned"


def test_places_that_cannot_be_are_refused_in_a_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("")
    for place, expected in (
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / ("n" * 250), "File name too long"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "in", "Not a directory|File exists"),
        ("/proc", "holds something other|mount point"),
        (tmp_path / "a\0b", "null character"),
    ):
        with pytest.raises(ArtifactError, match=expected) as caught:
            check_writable(place)
        assert str(caught.value).count("\n") == 0
        with pytest.raises(ArtifactError):
            read_report(Path(place))
