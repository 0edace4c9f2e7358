"""The script for a lent GPU: a dry run on the CPU, its page, and what happens out of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu_page
import on_gpu
from gpu.about import tests as read_tests
from gpu.sections import Record, Section, run
from gpu.settings import FULL

from prunekit.inputs.architectures import resolve
from prunekit.measuring import latency as clock

HEADINGS = (
    "Realised against theoretical speed-up",
    "Latency in eager mode, ms",
    "Multiples of kept sizes",
    "torch.compile",
    "2:4 beside slices at equal MACs",
    "prune(), seconds",
    "prune(repair='lstsq')",
    "Peak memory of a forward pass, and the weights",
    "Two training steps in bfloat16",
    "What was measured, and what was not",
)
JUNIT = """\
<testsuites><testsuite>
<testcase classname="tests.test_cuda" name="test_good" time="1.5"/>
<testcase classname="tests.test_cuda" name="test_bad" time="0.5">
<failure message="RuntimeError: two devices&#10;and more">...</failure></testcase>
<testcase classname="tests.test_cuda" name="test_left" time="0.0">
<skipped message="no time left"/></testcase>
</testsuite></testsuites>
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """What a dry run wrote; without torch.compile, which takes as long as all the rest."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "REPEATS", clock.REPEATS)  # a dry run hurries
        patch.setattr(on_gpu, "DRY", replace(on_gpu.DRY, compiled_batches=()))
        patch.setattr(sys, "argv", ["on_gpu.py", "--dry-run", "--out", str(path)])
        on_gpu.main()
    return path


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def page_of(record, out, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_page.py", str(record), "--out", str(out)])
    gpu_page.main()
    return out.read_text()


# -- the dry run and its page -----------------------------------------------------------------


def test_a_dry_run_measures_every_section(record):
    data = json.loads(record.read_text())
    assert data["skipped"] == []
    assert all(one["done"] == one["planned"] for one in data["sections"])
    assert [one["name"] for one in data["sections"] if not one["done"]] == ["compiled"]
    for row in data["latency"]:
        for found in (row["dense"], *row["pruned"]):
            assert 0 < found["low"] <= found["median"] <= found["high"]
    assert {round(row["got"], 1) for row in data["pruned"]} == {0.3, 0.5}
    assert all(row["parity"] < 1e-4 for row in data["pruned"])
    (repaired,) = data["repair"]
    assert repaired["error_after"] < repaired["error_before"]


def test_the_page_has_every_table_and_says_that_it_is_of_a_dry_run(record, tmp_path, monkeypatch):
    data = json.loads(record.read_text())
    row = data["latency"][0]
    data["compiled"] = [{**row, "pruned": row["pruned"][-1:], "compile_seconds": [20.0, 25.0]}]
    text = page_of(write(tmp_path / "gpu.json", data), tmp_path / "gpu.md", monkeypatch)
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == list(HEADINGS)
    assert "dry run on the CPU: none of these figures mean anything" in text
    assert "on_gpu.py --dry-run" in text
    assert max(map(len, text.splitlines())) < 250, "a table was folded"


def test_a_dry_run_never_becomes_the_page_of_results(record, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_page.py", str(record)])
    with pytest.raises(SystemExit, match="name another --out"):
        gpu_page.main()


def test_the_page_names_the_card_and_what_was_left_out(record, tmp_path, monkeypatch):
    data = json.loads(record.read_text())
    card = {"name": "NVIDIA H100 80GB HBM3", "capability": "9.0", "driver": "580.1"}
    data["about"]["card"] = {**card, "memory_bytes": 85e9, "semi_structured": True}
    data["about"]["dry_run"] = False
    data["skipped"] = [{"section": "compiled", "cell": "swin_s, bf16", "why": "no time"}]
    (tmp_path / "tests.xml").write_text(JUNIT)
    data["tests"] = read_tests(tmp_path / "tests.xml")

    text = page_of(write(tmp_path / "gpu.json", data), tmp_path / "gpu.md", monkeypatch)

    assert text.startswith("# On a GPU: NVIDIA H100 80GB HBM3\n")
    assert "compute capability 9.0, driver 580.1" in text
    assert "dry run" not in text.replace("--dry-run", "")
    assert "- compiled: swin_s, bf16: no time" in text
    assert "## torch.compile" not in text
    assert "Of 3 CUDA tests, 1 passed, 1 failed and 1 were skipped" in text
    assert "- failed: `tests.test_cuda::test_bad`: RuntimeError: two devices" in text
    assert "- skipped 1: no time left" in text


def test_a_run_cut_off_at_once_has_a_page(record, tmp_path, monkeypatch):
    about = json.loads(record.read_text())["about"]
    data = {"about": about, "sections": [], "skipped": [], "tests": None, "pruned": []}
    text = page_of(write(tmp_path / "gpu.json", data), tmp_path / "gpu.md", monkeypatch)
    assert "not run, or left no record" in text
    assert "## " not in text


# -- where there is no GPU, or no time --------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match="no CUDA device here; add --dry-run"):
        on_gpu.main()
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)}
    command = ["bash", str(Path(on_gpu.__file__).with_suffix(".sh"))]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ran.returncode, "add --dry-run" in ran.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_section_stops_when_its_time_is_up_and_the_next_one_runs(tmp_path):
    def nap(seconds):
        time.sleep(seconds)
        return {"slept": seconds}

    record = Record(tmp_path / "gpu.json", {})
    sections = [Section("long", 1, [0.0, 60, 0.1], nap), Section("short", 1, [0.0], nap)]
    start = time.monotonic()

    run(sections, record, 1.0)

    assert time.monotonic() - start < 10
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert (data["long"], data["short"]) == ([{"slept": 0.0}], [{"slept": 0.0}])
    assert [(one["cell"], one["why"]) for one in data["skipped"]] == [
        ("60", "no time"),
        ("0.1", "no time"),
    ]
    assert [(one["done"], one["planned"]) for one in data["sections"]] == [(1, 3), (1, 1)]


def test_a_failure_is_written_down_and_the_rest_is_measured(tmp_path):
    def measure(cell):
        if cell == "bad":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")
        return {"cell": cell}

    record = Record(tmp_path / "gpu.json", {})
    run([Section("memory", 1, ["bad", "good"], measure)], record, 60)
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert data["memory"] == [{"cell": "good"}]
    why = "OutOfMemoryError: CUDA out of memory."
    assert data["skipped"] == [{"section": "memory", "cell": "bad", "why": why}]


def test_the_models_to_be_measured_are_known():
    for name in {*FULL.models, *FULL.sparse_models, *FULL.repaired_models}:
        assert resolve(name).timm or resolve(name).card
