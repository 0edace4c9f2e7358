"""What the command line prints: one line for an error, on any terminal, whatever it quotes."""

import os
import subprocess
import sys

import pytest

from prunekit.cli import main
from prunekit.recovery.recipes import Recipe

LONG = "a" * 300  # more bytes than a file name may have


def run(*arguments, **options):
    command = [sys.executable, "-m", "prunekit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_a_full_disk_is_one_sentence():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "prunekit", "list"]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "No space left on device" in found.stderr


def test_a_terminal_that_knows_ascii_only_is_enough():
    found = run("list", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "\x1b[31m\nx"],
        ["run", "--arch", "\x1b[2J"],
        ["run", "--arch", "vit_micro", "--data", LONG],
        ["run", "--arch", "vit_micro", "--weights", LONG],
        ["run", "--arch", "vit_micro", "--finetune", "1", "--recipe", LONG],
        ["compare", "--grid", LONG],
        ["compare", "--arch", "vit_micro", "--gpus", "1", "--dry-run"],
        ["compare", "--arch", "vit_micro", "--launcher", "ray", "--cpus", "nan", "--dry-run"],
        ["show", LONG],
        ["eval", "nowhere\x07"],
        ["show", "x" * 5000],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_whatever_is_quoted_an_error_is_one_printable_line(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("prunekit: ")
    assert error.count("\n") == 1
    assert error[:-1].isprintable()


def test_a_file_of_settings_is_read_in_part_only_if_it_is_small(tmp_path, capsys):
    sparse = tmp_path / "huge.toml"
    with sparse.open("wb") as file:
        file.truncate(3 * 2**30)
    assert main(["compare", "--grid", str(sparse)]) == 2
    assert "3,221,225,472 bytes, where at most 1,048,576 are read" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["lr", "weight_decay", "color_jitter", "clip_grad"])
@pytest.mark.parametrize("value", [1e308, float("nan"), float("inf"), -1.0])
def test_settings_that_end_in_no_numbers_are_refused(setting, value):
    with pytest.raises(Exception, match=f"The recipe says {setting} = "):
        Recipe().with_(**{setting: value})


@pytest.mark.parametrize("name", ["", "  "])
def test_a_blank_name_is_no_place(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--arch", "vit_micro", "--out", name])
    assert stopped.value.code == 2
    assert "--out: a blank is no name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_nothing_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--arch", "vit_micro", "--axes", ","])
    assert "--axes: ',' names nothing" in capsys.readouterr().err


QUIET = ("--no-evaluation", "--no-timing", "--criterion", "magnitude")


def test_where_a_model_is_saved_is_one_printable_line(tmp_path, capsys):
    place = tmp_path / "a\x1b[31m\nb"
    assert main(["run", "--arch", "vit_micro", *QUIET, "--out", str(place)]) == 0
    assert rf"saved     {tmp_path}/a\x1b[31m\nb" in capsys.readouterr().out.splitlines()
    assert place.is_dir()


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--arch", "vit_micro", *QUIET, "--out", "~/small"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_run_that_fails_leaves_no_directories_behind(tmp_path, capsys):
    place = tmp_path / "deep" / "er" / "small"
    assert main(["run", "--arch", "vit_micro", *QUIET, "--ratio", "0.99", "--out", str(place)]) == 2
    assert "out of reach" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
