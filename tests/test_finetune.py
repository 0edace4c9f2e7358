"""Fine-tuning saved models: as a user runs it, on one process and two, killed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import write_digits
from rich.console import Console
from safetensors.torch import load_file

import prunekit.inputs.folder
from prunekit import finetune
from prunekit.artifact import CURVE, HISTORY, REPORT, WEIGHTS, read_history, read_report
from prunekit.cli import main
from prunekit.errors import ArtifactError, DataError, TrainingError
from prunekit.inputs.architectures import build
from prunekit.inputs.zoo import card
from prunekit.report import render

FAST = {"epochs": 2, "batch_size": 16, "lr": 1e-3}
FLAGS = ["--epochs", "2", "--batch-size", "16", "--lr", "1e-3"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Digits to train on, and pruned models to train: `vit` and `convnext`."""
    home = tmp_path_factory.mktemp("finetune")
    write_digits(home / "digits")
    for name in ("vit", "convnext"):
        prunekit.prune(f"{name}_micro", "magnitude", 0.6).save(home / name)
    return home


@pytest.fixture(scope="module")
def tuned(home):
    """One fine-tuned model, and what its run printed."""
    command = [sys.executable, "-m", "prunekit", "finetune", home / "vit", *FLAGS]
    ran = subprocess.run(
        [*command, "--data", home / "digits", "--tracker", "tensorboard", "--ema-decay", "0.5"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=True,
    )
    return home / "vit-finetuned", ran


def run(home, out, **options):
    options = {"data": str(home / "digits"), "overrides": FAST, "device": "cpu", **options}
    return finetune(home / "vit", out, **options)


# -- what comes out ---------------------------------------------------------------------------


def test_a_run_prints_a_line_for_each_epoch_and_the_report(tuned):
    out, ran = tuned
    lines = ran.stderr.splitlines()
    assert len(lines) == 2, ran.stderr
    assert re.match(
        r"epoch 1/2  lr [\d.e-]+  loss [\d.]+  val top-1 [\d.]+ %  [\d.]+ s  [\d,]+ images/s  "
        r"0:00:\d\d left$",
        lines[0],
    )
    assert "fine-tuned" in ran.stdout
    assert "63 images of" in ran.stdout.replace("\n", " ")
    assert f"saved     {out}" in ran.stdout
    assert f"its checkpoints in {out}.training may be deleted" in ran.stdout.splitlines()[-1]
    assert out.with_name(f"{out.name}.training").is_dir()


def test_a_report_says_where_training_did_not_help(tuned):
    report = read_report(tuned[0])
    told = {**report, "finetune": {**report["finetune"], "best_epoch": 0}}
    with (console := Console(width=100)).capture() as shown:
        console.print(render(told))
    text = " ".join(shown.get().split())
    assert "no epoch was better than the model that came in, which is kept, on 7 held-out" in text
    assert "kept epoch" not in text


def test_the_new_artifact_knows_where_it_is_from(tuned, home):
    out, _ = tuned
    old, new = read_report(home / "vit"), read_report(out)
    for key in ("asked", "got", "before", "parity", "axes"):
        assert new[key] == old[key]
    assert new["after"]["params"] == old["after"]["params"]
    assert new["after"]["images"] == 20
    told = new["finetune"]
    assert told["recipe"] == "quick"
    assert (told["settings"]["epochs"], told["settings"]["ema_decay"]) == (2, 0.5)
    assert told["learnt_from"] == ["labels"]
    assert (told["images"], told["validation"], told["processes"]) == (63, 7, 1)
    assert told["test_top1"] == new["after"]["top1"]
    assert set(told["versions"]) == {"accelerate", "torch"}
    assert prunekit.load(out)(torch.randn(1, 1, 28, 28)).shape == (1, 10)
    assert main(["show", str(out)]) == 0


def test_history_and_curve_travel_with_the_artifact(tuned, tmp_path):
    out, _ = tuned
    assert [epoch["epoch"] for epoch in read_history(out)] == [1, 2]
    assert (out / CURVE).read_text().startswith("<?xml")
    for name in (HISTORY, CURVE):
        copy = tmp_path / name.partition(".")[0]
        shutil.copytree(out, copy)
        (copy / name).write_text((copy / name).read_text().replace("1", "2", 1))
        with pytest.raises(ArtifactError, match=f"{name} is not what was saved"):
            prunekit.load(copy)
        (copy / name).unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            prunekit.load(copy)


def test_an_artifact_without_history_has_none(home):
    assert read_history(home / "vit") == []


def test_the_work_directory_keeps_what_was_tracked(tuned):
    out, _ = tuned
    workdir = out.with_name("vit-finetuned.training")
    assert (workdir / HISTORY).read_text() == (out / HISTORY).read_text()
    assert len(list(workdir.glob("prunekit/events*"))) == 1
    assert len(list(workdir.glob("checkpoint-*"))) == 1


def test_finished_work_may_be_replaced_or_asked_for_again(tuned, home):
    out, _ = tuned
    before = (out / WEIGHTS).read_bytes()
    arguments = ["finetune", str(home / "vit"), *FLAGS, "--ema-decay", "0.5"]
    arguments += ["--data", str(home / "digits"), "--json"]
    assert main([*arguments, "--resume"]) == 0
    assert (out / WEIGHTS).read_bytes() == before
    assert main(arguments) == 0
    assert (out / WEIGHTS).read_bytes() == before


def test_a_tuned_model_can_be_tuned_again(tuned, home, tmp_path):
    done = finetune(tuned[0], tmp_path / "again", data=str(home / "digits"), overrides=FAST)
    assert done.report["finetune"]["test_top1_before"] == read_report(tuned[0])["after"]["top1"]
    assert done.report["finetune"]["source"] == str(tuned[0])


def test_test_images_are_read_once_and_only_after_training(home, tmp_path, monkeypatch):
    reads, read = [], prunekit.inputs.folder.read_image
    monkeypatch.setattr(
        prunekit.inputs.folder,
        "read_image",
        lambda path, mode: reads.append(path) or read(path, mode),
    )
    run(home, tmp_path / "out")
    tests = [path for path in reads if "/digits/test/" in path]
    assert len(tests) == len(set(tests)) == 20
    assert reads[-20:] == tests
    assert len(reads) > 100


# -- distillation -----------------------------------------------------------------------------


def test_the_dense_model_is_built_again_to_teach(home, tmp_path):
    overrides = {**FAST, "epochs": 1, "distill": True, "feature_weight": 0.5}
    done = run(home, tmp_path / "out", overrides=overrides)
    assert done.report["finetune"]["learnt_from"] == ("labels", "logits", "features")


def test_weights_that_teach_nothing_are_refused(home, tmp_path):
    own = build("vit_micro").model
    small = prunekit.prune(own, "magnitude", 0.5)
    small.save(tmp_path / "own")
    overrides = {**FAST, "epochs": 1, "distill": True}
    options = {"model": own, "data": str(home / "digits"), "overrides": overrides}
    with pytest.raises(TrainingError, match=r"cannot teach: it was the caller's own; pass it"):
        finetune(tmp_path / "own", **options)
    assert finetune(tmp_path / "own", **options, teacher=own).report["finetune"]["epochs"] == 1

    prunekit.prune("vit_micro", "magnitude", 0.5, weights="random").save(tmp_path / "random")
    with pytest.raises(TrainingError, match="cannot teach: it was built with random weights"):
        finetune(tmp_path / "random", data=str(home / "digits"), overrides=overrides)


# -- refusals ---------------------------------------------------------------------------------


def refused(capsys, *arguments):
    code = main(["finetune", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


def test_bad_input_is_one_sentence(home, tmp_path, capsys):
    digits, vit, out = home / "digits", home / "vit", ["--out", tmp_path / "out"]
    (tmp_path / "mine.toml").write_text("epoch = 3")
    write_digits(tmp_path / "tests-only", 0, 10)
    write_digits(tmp_path / "few", 10, 10)
    write_digits(tmp_path / "eight", 8, 8)
    shutil.rmtree(tmp_path / "few" / "train" / "9")
    for arguments, expected in (
        ([tmp_path / "none"], "no directory"),
        ([vit, "--recipe", "qick", "--data", digits], "Did you mean 'quick'"),
        ([vit, "--recipe", tmp_path / "mine.toml"], "Did you mean 'epochs'"),
        ([vit, "--data", digits, "--lr", "-1"], "lr = -1.0; expected"),
        ([vit, "--data", digits, "--tracker", "wandb"], "pip install wandb"),
        ([vit, "--data", digits, "--device", "tpu"], "'tpu' is not there"),
        ([vit, "--data", digits, "--batch-size", "64"], "63 images to train with, fewer than"),
        ([vit, "--data", digits, "--precision", "fp16"], "needs a GPU"),
        ([vit, "--data", tmp_path / "tests-only"], "has no training images"),
        ([vit, "--data", tmp_path / "eight"], "lacks '6', '7', which"),
        ([vit, "--data", tmp_path / "nowhere"], "No data set or folder"),
    ):
        assert expected in refused(capsys, *arguments, *out), arguments
    assert not (tmp_path / "out").exists()


def test_the_model_that_is_trained_is_not_replaced(home, capsys):
    vit = home / "vit"
    err = refused(capsys, vit, "--data", home / "digits", "--out", vit / ".." / "vit")
    assert (
        "is the model that is trained; name another directory, or none for 'vit-finetuned'" in err
    )


def test_an_artifact_made_without_data_asks_for_some(home, tmp_path):
    report = json.loads((home / "vit" / REPORT).read_text())
    if report["recipe"]["data"] is None:
        with pytest.raises(DataError, match="made without data"):
            finetune(home / "vit", tmp_path / "out")


# -- killed -----------------------------------------------------------------------------------

KILLED = '''
"""Run finetune in forked children that are killed at chosen moments; say what each left."""
import json, os, signal, sys
from pathlib import Path
import torch
from rich.console import Console
from safetensors.torch import load_file
from prunekit.artifact import WEIGHTS
from prunekit.errors import TrainingError
from prunekit import finetune
from prunekit.recovery.training import checkpoint, loop, records

torch.set_num_threads(1)
home, root, digits = sys.argv[1:]
OPTIONS = {
    "data": digits, "device": "cpu", "checkpoint_minutes": 0,
    "overrides": {"epochs": 2, "batch_size": 4, "lr": 3e-3, "mixup": 0.2, "ema_decay": 0.5,
                  "augment": "rand-m3", "validation": 0.3, "crop": 0.8, "flip": 0.0},
}
records.learning_curve = lambda *_: "<svg/>"
loop.LOOK = 3  # of the 5 updates of an epoch, so that checkpoints are due within it and after it

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(owner, name, number, before=True):
    """Die at the number-th call of a function."""
    original, calls = getattr(owner, name), []
    def wrapped(*arguments, **options):
        calls.append(1)
        if before and len(calls) == number:
            die()
        result = original(*arguments, **options)
        if len(calls) == number:
            die()
        return result
    setattr(owner, name, wrapped)

import accelerate, timm.loss, timm.optim, timm.scheduler, PIL.PngImagePlugin  # once
import prunekit.finetuning
MOMENTS = {
    "never": lambda: None,
    "before-the-first-checkpoint": lambda: at_call(torch.optim.AdamW, "step", 2),
    "within-the-second-epoch": lambda: at_call(torch.optim.AdamW, "step", 7),
    "while-writing-the-first": lambda: at_call(checkpoint, "write_json", 1),
    "while-writing-a-later-one": lambda: at_call(checkpoint, "save_file", 3),
    "before-renaming": lambda: at_call(checkpoint.os, "rename", 3),
    "before-removing-the-old": lambda: at_call(checkpoint.shutil, "rmtree", 3),
    "before-saving": lambda: at_call(prunekit.finetuning, "save_tuned", 1),
    "after-saving": lambda: at_call(prunekit.finetuning, "save_tuned", 1, before=False),
}

def child(act):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def fresh(out, resume=False):
    finetune(home, out, resume=resume, **OPTIONS)

found = {}
for name, arrange in MOMENTS.items():
    out = os.path.join(root, name)
    code = child(lambda: (arrange(), fresh(out)))
    kept = len(checkpoint.whole(Path(out + ".training")))
    again = child(lambda: fresh(out, resume=True))
    weights = os.path.join(out, WEIGHTS)
    found[name] = {"code": code, "kept": kept, "resumed": again, "weights": weights}
print(json.dumps(found))
'''


def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(home, tmp_path):
    digits = write_digits(tmp_path / "digits", 30, 10)
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, home / "vit", tmp_path, digits],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    whole = found.pop("never")
    assert (whole["code"], whole["resumed"]) == (0, 0), ran.stderr
    expected = load_file(whole["weights"])
    assert read_report(tmp_path / "never")["finetune"]["best_epoch"] > 0
    for moment, left in found.items():
        assert left["code"] == -9, (moment, left, ran.stderr)
        assert left["resumed"] == 0, (moment, ran.stderr)
        assert left["kept"] or "first" in moment, moment  # never without a whole checkpoint
        weights = load_file(left["weights"])
        assert all(torch.equal(weights[name], expected[name]) for name in expected), moment


def test_ctrl_c_finishes_cleanly_and_says_how_to_go_on(home, tmp_path):
    command = [sys.executable, "-m", "prunekit", "finetune", home / "vit", "--epochs", "500"]
    with subprocess.Popen(
        [*command, "--batch-size", "16", "--data", home / "digits", "--out", tmp_path / "out"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr.readline().startswith("epoch 1/500")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(
        r"prunekit: interrupted after epoch \d+; add --resume to go on\.", err.splitlines()[-1]
    )
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]
    assert len(list((tmp_path / "out.training").glob("checkpoint-*"))) == 1


# -- two processes ----------------------------------------------------------------------------

LAUNCHERS = {  # and how many processes each starts; Accelerate's needs MPI for two on a CPU
    "torchrun": (["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"], 2),
    "accelerate": (["accelerate.commands.launch", "--cpu", "--num_processes", "1"], 1),
}
LARGE_STEPS = ["--epochs", "2", "--batch-size", "16", "--lr", "0.2", "--validation", "0.3"]
PLAIN = ["--optimizer", "sgd", "--ema-decay", "0.5"]  # Adam makes much of small differences


@pytest.fixture(scope="module")
def alone(home):
    """The convnext, which draws nothing at random itself, trained by one process."""
    assert card("convnext_micro")["args"].get("drop_path_rate", 0) == 0
    overrides = {"epochs": 2, "batch_size": 16, "lr": 0.2, "validation": 0.3}
    overrides |= {"optimizer": "sgd", "ema_decay": 0.5}
    options = {"data": str(home / "digits"), "overrides": overrides, "device": "cpu"}
    return finetune(home / "convnext", home / "alone", **options)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launched_processes_train_what_one_does(launcher, alone, home, tmp_path):
    module, processes = LAUNCHERS[launcher]
    out = tmp_path / "out"
    command = [sys.executable, "-m", *module, "-m", "prunekit", "finetune", home / "convnext"]
    ran = subprocess.run(
        [*command, "--data", home / "digits", "--out", out, *LARGE_STEPS, *PLAIN],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("epoch 1/2") == ran.stdout.count("saved     ") == 1
    report = read_report(out)["finetune"]
    assert report["processes"] == processes
    assert report["best_epoch"] == alone.trained.best_epoch > 0
    for line, epoch in zip(read_history(out), alone.trained.history, strict=True):
        assert line["train_loss"] == pytest.approx(epoch.train_loss, rel=1e-4)
        assert line["val_top1"] == epoch.val_top1
    ours, theirs = load_file(home / "alone" / WEIGHTS), load_file(out / WEIGHTS)
    start = load_file(home / "convnext" / WEIGHTS)
    moved = max(float((ours[name] - start[name]).abs().max()) for name in ours)
    apart = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert moved > 1e-2
    assert apart <= (0 if processes == 1 else 1e-4 * moved)
