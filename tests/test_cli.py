"""The command line: what a user types, and what comes back."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import write_digits
from rich.console import Console

import prunekit.inputs.fashion
from prunekit import criterion, prune
from prunekit.artifact import read_report
from prunekit.cli import _parser, main
from prunekit.criteria import CRITERIA
from prunekit.inputs.zoo import names, weights
from prunekit.repairs import REPAIRS
from prunekit.repairs.base import Repair
from prunekit.report import render


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "saved"
    prune("vit_micro", "magnitude", 0.5).save(directory)
    return directory


def refused(capsys, *arguments):
    """Run a command that must fail, and return its one sentence."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("prunekit: ")
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("arch", names())
def test_run_prunes_measures_and_saves(arch, tmp_path, capsys, monkeypatch):
    images, read = 10_000 if arch == "swin_micro" else 2_000, prunekit.inputs.fashion._idx
    monkeypatch.setattr(
        prunekit.inputs.fashion, "_idx", lambda root, stem: read(root, stem)[:images]
    )
    out = tmp_path / "small"
    arguments = ["--arch", arch, "--criterion", "dimap", "--ratio", "0.5", "--out", str(out)]
    assert main(["run", *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    before, after = report["before"], report["after"]
    assert report["got"] == pytest.approx(0.5, abs=0.005)
    assert after["params"] == pytest.approx(before["params"] / 2, rel=0.02)
    assert after["macs"] < before["macs"]
    assert before["top1"] > 88
    assert 10 < after["top1"] < before["top1"]
    assert after["images"] == images
    assert set(after["latency_ms"]) == {"1", "8"}
    assert report["parity"]["holds"]
    assert report["recipe"]["weights"] == "zoo"

    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == after["top1"]


def test_show_prints_both_models_and_every_axis(artifact, capsys):
    assert main(["show", str(artifact)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "parameters",
        "MACs",
        "blocks.9.attn.head",
        "asked -50.00%",
        "parity",
        "holds",
    ):
        assert expected in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("dimap", "taylor", "swin", "convnext_b", "vit_micro", "fashion-mnist-mini"):
        assert name in out
    for name, told in (
        ("bias", "fold the mean of what left into the bias"),
        ("lstsq", "refit layers to the outputs they had"),
        ("quick", "epochs in batches of"),
        ("isomorphic", "distilled from the dense model"),
    ):
        assert any(line.startswith(f"{name} ") and told in line for line in _unwrapped(out)), name


def _unwrapped(out):
    """Join what a narrow terminal has broken: lines that start with blanks go on."""
    lines = []
    for line in out.splitlines():
        if line.startswith("  ") and lines:
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
        else:
            lines.append(line)
    return lines


def test_help_and_list_do_not_import_torch():
    code = (
        "import sys; from prunekit.cli import main; main(['list']); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(("noun", "name"), [("criterion", "dimap"), ("repair", "lstsq")])
def test_check_passes_for_what_is_built_in(noun, name, capsys):
    assert main(["check", noun, name]) == 0
    out = capsys.readouterr().out
    assert out.count("passes") > 4
    assert "fails" not in out


def test_check_says_what_a_bad_repair_does_wrong(capsys, monkeypatch):
    harmful = Repair("harmful", lambda layer: (layer.weight + 1, layer.bias))
    monkeypatch.setitem(REPAIRS._loaded, "harmful", harmful)
    assert main(["check", "repair", "harmful"]) == 1
    assert "fails  brings no layer further from the dense one" in capsys.readouterr().out


# --- recovery --------------------------------------------------------------------------

SMALL = ["run", "--arch", "vit_micro", "--criterion", "magnitude", "--calibration", "16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_digits(tmp_path_factory.mktemp("cli-digits")))


def test_a_run_with_repair_and_steps_tells_of_both(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    flags = ["--repair", "lstsq:ridge=0.01", "--steps", "2", "--schedule", "linear"]
    flags += ["--axes", "mlp,head_dim", "--ratio", "0.4", "--data", folder, "--out", out]
    assert main([*SMALL, *flags]) == 0
    printed = _unwrapped(capsys.readouterr().out)
    assert any("repair lstsq:ridge=0.01, axes mlp+head_dim" in line for line in printed)
    report = read_report(tmp_path / "out")
    rounds, recipe = report["rounds"], report["recipe"]
    assert [one["asked"] for one in rounds] == pytest.approx([0.2, 0.4])
    gains = [gain for one in rounds for gain in one["repaired"].values()]
    assert all(one["repaired"] for one in rounds)
    for parity in (one["parity"] for one in rounds):
        assert 0 < parity["difference"] <= parity["tolerance"] * parity["scale"]
    assert (recipe["steps"], recipe["schedule"], recipe["calibration"]) == (2, "linear", 16)
    assert (recipe["repair"], recipe["repair_options"]) == ("lstsq", {"ridge": 0.01})
    before, after = (sum(g[side] for g in gains) / len(gains) for side in ("before", "after"))
    assert before > after
    (said,) = [line for line in printed if line.startswith("repair ")]
    assert f"lstsq on 16 images: mean error of {len(gains)} refits" in said
    assert f"{before:.2%} to {after:.2%}" in said
    assert any(
        line.startswith("steps ") and "linear: 20.0%, 40.0% of the whole model" in line
        for line in printed
    )
    assert not any(line.startswith("train ") for line in printed)

    assert main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == rounds


def test_a_plain_run_tells_of_neither(artifact, capsys):
    assert main(["show", str(artifact)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert not any(line.startswith(("repair", "steps", "train")) for line in printed)
    assert "repair" not in "".join(printed)


def test_a_run_that_trains_follows_the_recipe_that_was_named(folder, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("epochs = 7\nbatch_size = 16\nlr = 0.002\ndistill = true")
    flags = ["--finetune", "1", "--recipe", str(tmp_path / "mine.toml"), "--steps", "2"]
    assert main([*SMALL, *flags, "--data", folder, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    made = report["recipe"]["finetune"]
    assert (made["epochs"], made["batch_size"], made["lr"], made["distill"]) == (1, 16, 0.002, True)
    assert [one["trained"]["epochs"] for one in report["rounds"]] == [1, 1]
    last = report["rounds"][-1]["trained"]
    assert last["learnt_from"] == ["labels", "logits"]

    Console(width=200).print(render(report))
    printed = capsys.readouterr().out
    assert (
        "1 epochs after each step on 63 images, from labels and logits: "
        f"{last['val_top1_before']:.2f} to {last['val_top1']:.2f} % on 7 held-out"
    ) in printed


@pytest.mark.parametrize(
    ("flags", "distill"),
    [([], False), (["--distill"], True), (["--recipe", "isomorphic"], True)],
    ids=str,
)
def test_distilling_is_the_recipe_s_choice_or_the_flag_s(flags, distill, monkeypatch):
    from prunekit.cli.run import _recipe

    parsed = _parser().parse_args(["run", "--arch", "x", "--finetune", "3", *flags])
    assert (_recipe(parsed).distill, _recipe(parsed).epochs) == (distill, 3)
    assert _recipe(_parser().parse_args(["run", "--arch", "x"])) is None


@pytest.mark.parametrize("flags", [["--recipe", "quick"], ["--distill"]], ids=" ".join)
def test_how_to_train_without_how_long_is_refused(flags, capsys):
    said = refused(capsys, "run", "--arch", "vit_micro", *flags)
    assert "add --finetune with a number of epochs" in said


def test_options_reach_the_criterion(capsys):
    arguments = ["--arch", "vit_micro", "--criterion", "magnitude:p=1", "--data", "nowhere"]
    assert "nowhere" in refused(capsys, "run", *arguments)
    assert "'p'" in refused(capsys, "run", "--arch", "vit_micro", "--criterion", "magnitude:p=x")


BAD_NAMES = {
    "repair": (["--repair", "lstq"], "No repair is called 'lstq'. Did you mean 'lstsq'?"),
    "repair-option": (["--repair", "lstsq:rigde=1"], "Did you mean 'ridge'"),
    "repair-value": (["--repair", "lstsq:ridge=x"], "'ridge' of repair 'lstsq' got 'x'"),
    "repair-no-options": (["--repair", "bias:ridge=1"], "Repair 'bias' has no options"),
    "recipe": (["--finetune", "1", "--recipe", "qick"], "Did you mean 'quick'"),
    "epochs": (["--finetune", "0"], "epochs = 0"),
    "steps": (["--steps", "0"], "expected 1 or more"),
    "schedule": (["--schedule", "cubik"], "Did you mean 'cubic'"),
    "arch": (["--arch", "swin_micr"], "Did you mean 'swin_micro'"),
    "unlike-anything": (["--arch", "qqqqqq"], "prunekit list"),
    "criterion": (["--criterion", "dimpa"], "Did you mean 'dimap'"),
    "option": (
        ["--criterion", "magnitude:q=1"],
        "No option of criterion 'magnitude' is called 'q'",
    ),
    "by": (["--by", "param"], "Did you mean 'params'"),
    "scope": (["--scope", "kinds"], "Did you mean 'kind'"),
    "axes": (["--axes", "mpl"], "Did you mean 'mlp'"),
    "include": (["--include", "layers.*"], "matches no axis"),
    "exclude": (["--exclude", "*"], "leave no axis"),
    "device": (["--device", "tpu"], "'tpu' is not there"),
    "data": (["--data", "fashion"], "No data set or folder"),
    "unknown-adapter": (
        ["--arch", "resnet18", "--weights", "random", "--adapter", "resnet"],
        "No adapter is called 'resnet'",
    ),
    "ratio-0": (["--ratio", "0"], "between 0 and 1"),
    "ratio-1": (["--ratio", "1"], "between 0 and 1"),
    "ratio-nan": (["--ratio", "nan"], "between 0 and 1"),
    "ratio-tiny": (["--ratio", "0.000001"], "less than half a step"),
    "unreachable": (["--ratio", "0.99"], "at most 0."),
    "floor": (["--floor", "2"], "from 0 to 1"),
    "multiple": (["--multiple", "0"], "1 or more"),
    "calibration": (["--calibration", "0"], "1 or more"),
    "weights": (["--weights", "nowhere.safetensors"], "There is no weights file"),
    "needs-data": (
        ["--arch", "vit_ti", "--weights", "random", "--criterion", "taylor"],
        "needs training images",
    ),
    "classes": (
        ["--arch", "vit_ti", "--weights", "random", "--data", "fashion-mnist-mini"],
        "10 classes",
    ),
}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_bad_input_is_one_sentence(case, capsys, tmp_path):
    arguments, expected = BAD_NAMES[case]
    out = tmp_path / "out"
    assert expected in refused(capsys, "run", "--arch", "vit_micro", "--out", out, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_ratio_that_is_no_number_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--arch", "vit_micro", "--ratio", "half"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_corrupt_and_foreign_weights_are_one_sentence(capsys, tmp_path):
    corrupt = tmp_path / "corrupt.safetensors"
    corrupt.write_bytes(b"no weights at all")
    assert "not a readable weights file" in refused(
        capsys, "run", "--arch", "vit_micro", "--weights", corrupt
    )
    pickled = tmp_path / "pickled.pt"
    torch.save({"model": pytest}, pickled, pickle_module=_Pickle)
    assert "not a readable" in refused(capsys, "run", "--arch", "vit_micro", "--weights", pickled)
    other = weights("swin_micro")
    assert "do not fit" in refused(capsys, "run", "--arch", "vit_micro", "--weights", other)


class _Pickle:
    """Pickles anything by its name, as a checkpoint with code in it would."""

    import pickle

    HIGHEST_PROTOCOL = pickle.HIGHEST_PROTOCOL

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing):
            return (print, ("boo",)) if thing is pytest else NotImplemented


@pytest.mark.parametrize(
    ("value", "expected"), [(float("nan"), "NaN"), (None, "(1,)")], ids=["nan", "shape"]
)
def test_a_broken_criterion_is_one_sentence_that_names_the_axis(value, expected, capsys):
    @criterion("broken")
    def broken(axes):
        return [torch.full((axis.size if value else 1,), value or 0.0) for axis in axes]

    try:
        said = refused(capsys, "run", "--arch", "vit_micro", "--criterion", "broken")
    finally:
        CRITERIA._loaded.pop("broken")
    assert "blocks.0.mlp" in said
    assert expected in said


def test_a_folder_without_images_is_one_sentence(capsys, tmp_path):
    assert "holds no images" in refused(capsys, "run", "--arch", "vit_micro", "--data", tmp_path)


def test_an_artifact_that_was_tampered_with_is_one_sentence(artifact, capsys, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    (copy / "plan.json").write_text((copy / "plan.json").read_text().replace("0", "1", 1))
    for command in ("show", "eval"):
        assert "not what was saved" in refused(capsys, command, copy)
        assert "no directory" in refused(capsys, command, tmp_path / "none")


def test_a_place_that_cannot_be_written_is_found_out_before_the_work(capsys):
    start = time.perf_counter()
    out = "/proc/prunekit/out"
    assert "Cannot write" in refused(capsys, "run", "--arch", "swin_b", "--out", out)
    assert time.perf_counter() - start < 5


def test_random_weights_come_with_a_warning_nobody_can_miss(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(["run", "--arch", "test_vit", "--ratio", "0.3"]) == 0
    assert capsys.readouterr().out.startswith("! RANDOM WEIGHTS, so that accuracies mean nothing")
    assert "can be had here" in refused(
        capsys, "run", "--arch", "test_vit", "--weights", "pretrained"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "nothing was saved."),
        (
            ["--scope", "search", "--repair", "lstsq"],
            "no model was saved. Plans that were tried are kept: repeat the command to go on.",
        ),
    ],
)
def test_ctrl_c_ends_quietly_with_130(tmp_path, more, said):
    command = [sys.executable, "-m", "prunekit", "run", "--arch", "swin_micro", *more]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A test run in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode() == f"prunekit: interrupted; {said}\n"
    assert out == b""
    assert list(tmp_path.iterdir()) == []
