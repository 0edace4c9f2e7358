"""Cells as Ray tasks: what they give, and what becomes of them when something dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_digits

from prunekit import criterion, sensitivity
from prunekit.cli import main
from prunekit.comparison.compare import plan
from prunekit.comparison.grid import Grid
from prunekit.comparison.launch import Silent, run_here
from prunekit.comparison.on_ray import Cluster, cuts
from prunekit.comparison.store import Store
from prunekit.criteria import CRITERIA
from prunekit.errors import GridError

ray = pytest.importorskip("ray", reason="Ray is not installed; pip install 'prunekit[ray]'")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return str(write_digits(tmp_path_factory.mktemp("data") / "digits", test=50))


@pytest.fixture(scope="module", autouse=True)
def _nothing_left():
    yield
    ray.shutdown()


@pytest.fixture
def two_workers():
    """A real Ray on this machine, with room for two cells at once."""
    if not ray.is_initialized():
        quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
        ray.init("local", num_cpus=2, num_gpus=0, object_store_memory=100 * 2**20, **quiet)


@pytest.fixture
def disconnected():
    ray.shutdown()


@pytest.fixture
def forgotten(monkeypatch):
    """Forget the criteria that a test registers."""
    monkeypatch.setattr(CRITERIA, "_loaded", dict(CRITERIA._loaded))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.prepare()
    return made


def make(digits, *criteria, **changes):
    given = {"arch": "convnext_micro", "data": digits, "calibration": 32, "device": "cpu"}
    grid = Grid.of({**given, "criterion": criteria, "ratio": (0.3, 0.6), **changes})
    return grid, plan(grid)


def sizes(axes):
    return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]


class Told(Silent):
    """Progress that remembers."""

    def __init__(self):
        self.begun, self.ended = [], []

    def started(self, cell):
        self.begun.append(cell)

    def done(self, cell, seconds):
        self.ended.append(cell)


def there(store, jobs):
    return [store.has(job.key) for job in jobs]


def wait_for(condition, seconds=120.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


# -- results ----------------------------------------------------------------------------------


def test_cells_are_what_they_are_without_ray(digits, store, tmp_path, two_workers):
    grid, jobs = make(digits, "magnitude:p=1", "taylor", repair="bias")
    here = Store(tmp_path / "here")
    here.prepare()
    told = Told()
    assert run_here(grid, jobs, here, Silent()) == []
    assert Cluster()(grid, jobs, store, told) == []
    for job in jobs:
        one, other = here.read(job.key), store.read(job.key)
        assert one.cell == other.cell == job.cell
        assert other.report["after"]["top1"] == one.report["after"]["top1"]
        assert other.report["before"]["top1"] > 10
        for left, right in ((one.kept, other.kept), (one.scores, other.scores)):
            assert left.keys() == right.keys() != set()
            assert all(np.array_equal(left[name], right[name]) for name in left)
        assert np.array_equal(one.correct, other.correct)
    cells = {job.cell for job in jobs}
    assert (set(told.begun), set(told.ended)) == (cells, cells)


def test_two_cells_run_at_once_by_a_criterion_that_only_this_process_knows(
    digits, store, tmp_path, two_workers, forgotten
):
    @criterion("meeting")
    def meeting(axes):
        """Wait until another process scores too."""
        (tmp_path / f"pid-{os.getpid()}").touch()
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("pid-*"))) < 2:
            assert time.monotonic() < until, "nobody else came"
            time.sleep(0.05)
        return sizes(axes)

    grid, jobs = make(digits, "meeting")
    assert Cluster()(grid, jobs, store, Silent()) == []
    assert there(store, jobs) == [True, True]
    pids = {int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_what_is_there_is_not_run_again(digits, store, two_workers):
    grid, jobs = make(digits, "random")
    assert Cluster()(grid, jobs[:1], store, Silent()) == []
    told = Told()
    assert Cluster()(grid, jobs, store, told) == []
    assert told.begun == [jobs[1].cell]
    assert set(told.ended) == {job.cell for job in jobs}


def test_a_cell_that_another_launcher_works_on_is_waited_for(digits, store, tmp_path, two_workers):
    grid, jobs = make(digits, "random")
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.prepare()
    run_here(grid, jobs, elsewhere, Silent())
    claimed = threading.Event()

    def other():
        with store.claim(jobs[0].key, wait=True):
            claimed.set()
            wait_for(lambda: store.has(jobs[1].key))
            store.write(jobs[0].key, elsewhere.read(jobs[0].key), jobs[0].determined_by)

    thread = threading.Thread(target=other)
    thread.start()
    claimed.wait()
    told = Told()
    assert Cluster()(grid, jobs, store, told) == []
    thread.join()
    assert told.begun == [jobs[1].cell]
    assert told.ended == [jobs[1].cell, jobs[0].cell]


# -- what goes wrong --------------------------------------------------------------------------


def killed_in_mid_cell(digits, store, tmp_path, cluster):
    """Run two cells of a criterion, and kill the first worker that scores."""
    pids = tmp_path / "pids"
    pids.touch()

    @criterion("slow_at_first")
    def slow_at_first(axes):
        """Take forever, the first time."""
        first = pids.read_text() == ""
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(600 if first else 0)
        return sizes(axes)

    def kill():
        wait_for(lambda: pids.read_text().endswith("\n"))
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)

    grid, jobs = make(digits, "slow_at_first", "random", ratio=0.5)
    thread = threading.Thread(target=kill)
    thread.start()
    failures = cluster(grid, jobs, store, Silent())
    thread.join()
    return jobs, failures, pids.read_text().split()


def test_a_cell_whose_worker_is_killed_is_run_by_another(
    digits, store, tmp_path, two_workers, forgotten
):
    jobs, failures, pids = killed_in_mid_cell(digits, store, tmp_path, Cluster(retries=1))
    assert failures == []
    assert there(store, jobs) == [True, True]
    killed, *others = pids
    assert others
    assert killed not in others


def test_a_cell_whose_workers_all_die_is_a_failure(digits, store, tmp_path, two_workers, forgotten):
    jobs, failures, pids = killed_in_mid_cell(digits, store, tmp_path, Cluster(retries=0))
    assert [failure.cell.criterion for failure in failures] == ["slow_at_first"]
    assert failures[0].reason.startswith("WorkerCrashedError: its worker died, in 1 of 1 tries; ")
    assert there(store, jobs) == [job.cell.criterion == "random" for job in jobs]
    assert len(pids) == 1


def test_an_exception_is_a_failure_of_its_cell_alone(digits, store, two_workers, forgotten):
    class Unpicklable(Exception):
        def __init__(self, message, lock):
            super().__init__(message)
            self.lock = lock

    @criterion("bad")
    def bad(axes):
        """Fail."""
        raise Unpicklable("no luck", threading.Lock())

    grid, jobs = make(digits, "bad", "random", ratio=0.5)
    (failure,) = Cluster()(grid, jobs, store, Silent())
    assert failure.cell.criterion == "bad"
    assert "Criterion 'bad'" in failure.reason
    assert "Unpicklable: no luck" in failure.reason
    assert there(store, jobs) == [job.cell.criterion == "random" for job in jobs]


def test_a_worker_refuses_cells_that_were_planned_with_something_else(digits, store, two_workers):
    grid, (job, *_) = make(digits, "random")
    torch_version = re.escape(job.determined_by["versions"]["torch"])
    wrong = {
        f"other versions.*torch {torch_version}, not 0.1": (
            "versions",
            {**job.determined_by["versions"], "torch": "0.1"},
        ),
        "other weights than": ("weights", "abc"),
        "other images than": ("data", "abc"),
        "another adapter than": ("adapter", "abc"),
        "another criterion than": ("plugins", ["abc", job.determined_by["plugins"][1]]),
        "another repair than": ("plugins", [job.determined_by["plugins"][0], "abc"]),
        "another recipe than": ("finetune", {"epochs": 3}),
    }
    jobs = [
        replace(job, key=f"job{number}", determined_by={**job.determined_by, part: value})
        for number, (part, value) in enumerate(wrong.values())
    ]
    reasons = [failure.reason for failure in Cluster()(grid, jobs, store, Silent())]
    for pattern in wrong:
        assert any(re.search(pattern, reason) for reason in reasons), (pattern, reasons)
    assert len(reasons) == len(wrong)
    assert there(store, jobs) == [False] * len(jobs)


def test_a_data_directory_that_workers_do_not_see_is_no_result(
    digits, store, tmp_path, two_workers
):
    seen = tmp_path / "seen"
    seen.symlink_to(digits)
    grid, jobs = make(str(seen), "random")
    seen.unlink()
    failures = Cluster()(grid, jobs, store, Silent())
    assert len(failures) == 2
    assert str(seen) in failures[0].reason
    assert there(store, jobs) == [False, False]


def test_ctrl_c_leaves_a_ray_that_was_there_and_nothing_claimed(digits, store, two_workers):
    grid, jobs = make(digits, "random", ratio=(0.2, 0.4, 0.6))

    class Impatient(Silent):
        def done(self, cell, seconds):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cluster()(grid, jobs, store, Impatient())
    assert ray.is_initialized()
    assert there(store, jobs).count(True) == 1
    for job in jobs:
        with store.claim(job.key, wait=False) as mine:
            assert mine
    assert Cluster()(grid, jobs, store, Silent()) == []


# -- what cannot be had -----------------------------------------------------------------------


def test_more_than_any_machine_has_is_a_sentence(digits, store, two_workers):
    grid, jobs = make(digits, "random")
    with pytest.raises(GridError, match=r"no machine with 1000 CPUs, .*--cpus"):
        Cluster(cpus=1000)(grid, jobs, store, Silent())
    on_gpu = [replace(job, determined_by={**job.determined_by, "device": "cuda"}) for job in jobs]
    with pytest.raises(GridError, match=r"no machine with 1 CPUs and 2 GPUs, "):
        Cluster(gpus=2)(grid, on_gpu, store, Silent())
    with pytest.raises(GridError, match=r"on cuda, but get no GPUs; pass --gpus 1"):
        Cluster()(grid, on_gpu, store, Silent())
    with pytest.raises(GridError, match=r"what --device cpu asks for, but get 0.5 GPUs each"):
        Cluster(gpus=0.5)(grid, jobs, store, Silent())


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"cpus": 0}, "0 CPUs"), ({"gpus": 1.5}, "1.5 GPUs"), ({"retries": -1}, "-1 times")],
)
def test_requests_that_make_no_sense_are_refused(asked, message):
    with pytest.raises(GridError, match=message):
        Cluster(**asked)


def test_slots_are_counted_machine_by_machine():
    def node(cpus, gpus=0, alive=True):
        return {"Alive": alive, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}

    assert Cluster().share.slots([node(2), node(3)]) == 5
    assert Cluster(cpus=2).share.slots([node(3), node(3)]) == 2  # not 3: a cell is on one machine
    assert Cluster(gpus=1).share.slots([node(16, 4), node(64)]) == 4
    assert Cluster(cpus=0.1, gpus=0.5).share.slots([node(16, 2)]) == 4
    assert Cluster(cpus=0.1).share.slots([node(1)]) == 10
    assert Cluster(cpus=4).share.slots([node(3), node(8, alive=False)]) == 0


def test_another_address_than_the_one_connected_to_is_a_sentence(digits, store, two_workers):
    grid, jobs = make(digits, "random")
    with pytest.raises(GridError, match=r"connected to Ray already, but not at '127.0.0.1:1'"):
        Cluster("127.0.0.1:1")(grid, jobs, store, Silent())


def test_without_ray_the_message_names_the_extra(digits, store, monkeypatch):
    grid, jobs = make(digits, "random")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GridError, match=r"pip install 'prunekit\[ray\]'"):
        Cluster()(grid, jobs, store, Silent())


def test_a_criterion_that_cannot_be_sent_is_a_sentence(digits, store, two_workers, forgotten):
    lock = threading.Lock()

    @criterion("locked")
    def locked(axes):
        """Hold on to what cannot be sent."""
        with lock:
            return sizes(axes)

    grid, jobs = make(digits, "locked")
    with pytest.raises(GridError, match=r"criterion 'locked' cannot be sent .*entry point"):
        Cluster()(grid, jobs, store, Silent())


# -- sensitivity ------------------------------------------------------------------------------

CUTS = {"include": ["stages.0.*"], "ratios": (0.5, 0.75), "calibration": 32, "device": "cpu"}


def sensed(digits, criterion="magnitude", **options):
    return sensitivity("convnext_micro", criterion, data=digits, **{**CUTS, **options})


def test_cuts_are_what_they_are_without_ray(digits, two_workers):
    told = []
    here = sensed(digits, repair="bias")
    there = sensed(digits, repair="bias", launcher=Cluster().cuts, on_effect=told.append)
    assert there.effects == here.effects
    assert len(here.effects) == 4
    assert (there.images, there.uncut) == (here.images, here.uncut)
    assert {one.axis for one in told} == {one.axis for one in here.effects}


def test_known_cuts_are_not_measured_again_and_others_by_what_only_this_process_knows(
    digits, tmp_path, two_workers, forgotten
):
    @criterion("own_sizes")
    def own_sizes(axes):
        """Note where it runs."""
        (tmp_path / f"pid-{os.getpid()}").touch()
        return sizes(axes)

    first, *others = sensed(digits, "own_sizes").effects
    told, odd = [], replace(first, divergence=9.0)
    found = sensed(
        digits, "own_sizes", known=[odd], launcher=Cluster().cuts, on_effect=told.append
    )  # fmt: skip
    assert list(found.effects) == [odd, *others]
    assert sorted(told, key=str) == sorted(others, key=str)
    assert len(list(tmp_path.glob("pid-*"))) > 1


def test_a_cut_that_fails_is_told_once_the_others_are_measured(digits, two_workers, forgotten):
    home = os.getpid()

    @criterion("homesick")
    def homesick(axes):
        """Fail elsewhere."""
        if os.getpid() != home:
            raise ValueError("far away")
        return sizes(axes)

    with pytest.raises(GridError, match=r"4 of 4 cuts .* at \d+%: .*far away.*tries them again\."):
        sensed(digits, "homesick", launcher=Cluster().cuts)


def test_a_worker_refuses_cuts_of_other_weights(digits, two_workers, monkeypatch):
    monkeypatch.setattr(cuts, "weights_digest", lambda model: "abc")  # in this process only
    with pytest.raises(GridError, match="other weights than the cell was planned with"):
        sensed(digits, launcher=Cluster().cuts)


def test_a_sensitivity_asks_of_ray_what_a_comparison_does(digits, two_workers, capsys):
    with pytest.raises(GridError, match=r"what --device cpu asks for, but get 1 GPUs each"):
        sensed(digits, launcher=Cluster(gpus=1).cuts)
    assert main(["sensitivity", "--arch", "vit_micro", "--cpus", "2"]) == 2
    assert "--cpus says what Ray is to do" in capsys.readouterr().err


def test_the_command_measures_with_ray_and_goes_on(digits, tmp_path, two_workers):
    out = tmp_path / "out"
    words = "sensitivity --arch convnext_micro --criterion magnitude --ratios 0.5 --calibration 32"
    words = [*words.split(), "--include", "stages.0.*", "--data", digits, "--out", str(out)]
    assert main([*words, "--quiet", "--launcher", "ray"]) == 0
    there = json.loads((out / "sensitivity.json").read_text())
    assert main([*words, "--quiet"]) == 0  # all is known
    assert json.loads((out / "sensitivity.json").read_text())["effects"] == there["effects"]
    assert there["recipe"]["criterion"] == "magnitude"


# -- not connected; at the end, since starting a Ray takes seconds ---------------------------


def test_an_address_where_nobody_is_is_a_sentence(digits, store, disconnected):
    grid, jobs = make(digits, "random")
    began = time.monotonic()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(GridError, match=f"at '{address}' .*refused.*ray start --head"):
            Cluster(address)(grid, jobs, store, Silent())
    for wrong in ("nonsense", "ray://127.0.0.1:10001"):
        with pytest.raises(GridError, match=f"'{wrong}' is not the address"):
            Cluster(wrong)(grid, jobs, store, Silent())
    assert time.monotonic() - began < 5


def test_an_address_where_something_else_is_is_a_sentence(digits, store, disconnected, monkeypatch):
    monkeypatch.setattr("prunekit.comparison.on_ray.connect.CONNECT_S", 2.0)
    grid, jobs = make(digits, "random")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GridError, match=f"at '{address}' .*not Ray, or not ready"):
            Cluster(address)(grid, jobs, store, Silent())


def test_nothing_is_asked_of_ray_if_all_is_there(digits, store, disconnected):
    grid, jobs = make(digits, "random")
    run_here(grid, jobs, store, Silent())
    assert Cluster("127.0.0.1:1")(grid, jobs, store, Silent()) == []
    assert not ray.is_initialized()


# -- a Ray of its own -------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from prunekit import criterion
from prunekit.comparison.compare import plan
from prunekit.comparison.grid import Grid
from prunekit.comparison.launch import Silent
from prunekit.comparison.on_ray import Cluster
from prunekit.comparison.store import Store

@criterion("own")
def own(axes):
    '''Sum of absolute weights.'''
    return [axis.reduce(lambda member: member.weight.abs()) for axis in axes]

class Lines(Silent):
    def started(self, cell):
        print(cell.ratio, flush=True)

store = Store(Path(sys.argv[2]))
store.prepare()
grid = Grid.of({
    "arch": "convnext_micro", "criterion": "own", "ratio": [0.2, 0.3, 0.4, 0.5],
    "data": sys.argv[1], "device": "cpu",
})
assert Cluster(retries=0)(grid, plan(grid), store, Lines()) == []
"""


def test_a_killed_launch_leaves_no_process_and_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script, out, cells = tmp_path / "script.py", tmp_path / "out", tmp_path / "out" / "cells"
    script.write_text(SCRIPT)
    deep = tmp_path / ("long" * 20)  # too deep for a socket's path
    deep.mkdir()
    command = [sys.executable, str(script), digits, str(out)]
    env = {**os.environ, "TMPDIR": str(deep), "TELLTALE": str(tmp_path)}

    def stored():
        return {path.name for path in cells.glob("[!.]*")}

    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as first:
        # A worker that is still starting when its Ray is killed takes a minute to notice.
        wait_for(lambda: stored() and working(tmp_path).count("ray::run_cell") == 2)
        first.kill()
    done = stored()
    assert 0 < len(done) < 4
    wait_for(lambda: working(tmp_path) == [])

    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert (again.returncode, again.stderr) == (0, "")
    assert len(again.stdout.split()) == 4 - len(done)  # nothing but what the script prints
    assert done < stored()
    assert len(stored()) == 4
    wait_for(lambda: working(tmp_path) == [])


def working(mark):
    """Name the processes that have a mark in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"TELLTALE={mark}\0".encode() in (place / "environ").read_bytes():
                found.append((place / "cmdline").read_text().replace("\0", " ").strip())
        except OSError:  # it is gone, or another user's
            continue
    return found
