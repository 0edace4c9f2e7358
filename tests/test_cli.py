"""The command line: what a user types, and what comes back."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from prunekit import criterion, prune
from prunekit.cli import main
from prunekit.criteria import CRITERIA
from prunekit.zoo import names, weights


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
def test_run_prunes_measures_and_saves(arch, tmp_path, capsys):
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
    assert after["images"] == 10_000
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


def test_help_and_list_do_not_import_torch():
    code = (
        "import sys; from prunekit.cli import main; main(['list']); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_check_passes_for_a_built_in_criterion(capsys):
    assert main(["check", "criterion", "dimap"]) == 0
    assert "fails" not in capsys.readouterr().out


def test_options_reach_the_criterion(capsys):
    arguments = ["--arch", "vit_micro", "--criterion", "magnitude:p=1", "--data", "nowhere"]
    assert "nowhere" in refused(capsys, "run", *arguments)
    assert "'p'" in refused(capsys, "run", "--arch", "vit_micro", "--criterion", "magnitude:p=x")


BAD_NAMES = {
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
        ["--arch", "resnet18", "--weights", "random"],
        "known: vit, swin, convnext",
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
    assert main(["run", "--arch", "vit_ti", "--ratio", "0.3"]) == 0
    assert capsys.readouterr().out.startswith("! RANDOM WEIGHTS, so that accuracies mean nothing")
    assert "can be had here" in refused(
        capsys, "run", "--arch", "vit_ti", "--weights", "pretrained"
    )


def test_ctrl_c_ends_quietly_with_130(tmp_path):
    command = [sys.executable, "-m", "prunekit", "run", "--arch", "swin_micro"]
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
    assert err.decode() == "prunekit: interrupted; nothing was saved.\n"
    assert out == b""
    assert list(tmp_path.iterdir()) == []
