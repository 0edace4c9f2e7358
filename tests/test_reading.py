"""What comes out of a file has the type that was expected, or a sentence says where it has not."""

import json
import os
import subprocess
import sys

import pytest

from prunekit.errors import ArtifactError, GridError
from prunekit.files.card import Card
from prunekit.files.reading import DEEPEST, LARGEST, cleaned, parse, read_json, typed
from prunekit.inputs import zoo

DAMAGED = {
    "not-a-number": ('{"a": NaN}', "NaN is not a finite number"),
    "infinite": ('{"a": -Infinity}', "-Infinity is not a finite number"),
    "overflowing": ('{"a": 1e400}', "1e400 is not a finite number"),
    "long": ('{"a": 123456789012345678901234567890}', "a number of 30 digits"),
    "twice": ('{"a": 1, "a": 2}', "'a' stands twice"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "just-too-deep": ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "nested too deeply"),
    "cut-off": ('{"a": 12', r"no JSON: .* in line 1, column 9"),
    "empty": ("", "no JSON"),
    "terminal": (r'{"a\u001b[2J": 1}', r"it has the control character '\\x1b'"),
    "reversing": (r'{"b": {"c": "\u202egnp"}}', r"b\.c has the control character '\\u202e'"),
    "half-a-character": (r'{"b": "\ud800"}', r"b has the control character '\\ud800'"),
    "other-type": ('{"a": "one"}', "a: input should be a valid integer.*, not 'one'"),
    "true-for-one": ('{"a": true}', "a: input should be a valid integer, not True"),
    "one-point-oh": ('{"a": 1.0}', "a: input should be a valid integer.*, not 1.0"),
    "list": ("[1]", r"it: input should be an object|it: input should be a valid dictionary"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named_in_one_line_that_is_safe_to_print(damage, tmp_path):
    text, expected = DAMAGED[damage]
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ArtifactError, match=expected) as caught:
        read_json(tmp_path / "file.json", dict[str, int])
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'file.json'} is not readable (")
    assert said.endswith("; save it again.")
    assert said.isprintable()
    assert len(said) < 400


def test_bytes_that_are_no_text_are_named():
    with pytest.raises(ArtifactError, match="no text in UTF-8"):
        parse(b'{"a": "\xff"}', dict[str, str], "it")


def test_what_a_long_value_says_is_cut_short():
    with pytest.raises(ArtifactError) as caught:
        parse(json.dumps({"a" * 5000: "b" * 5000}).encode(), dict[str, int], "it")
    assert len(str(caught.value)) < 400


def test_errors_and_advice_are_the_callers():
    with pytest.raises(GridError, match=r"; remove it\.$"):
        parse(b"1", str, "it", error=GridError, advice="remove it")


def test_a_list_becomes_a_tuple_and_other_text_passes():
    assert parse(b"[1, 2]", tuple[int, ...], "it") == (1, 2)
    assert parse('"übung\\n\\t–"'.encode(), str, "it") == "übung\n\t–"
    assert typed({"a": [1]}, dict[str, list[int]], "it") == {"a": [1]}
    with pytest.raises(ArtifactError, match="The plan is not readable"):
        typed({"a": object()}, dict[str, int], "The plan")


def test_a_huge_file_is_not_read(tmp_path):
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ArtifactError, match=f"3,221,225,472 bytes, where at most {LARGEST:,}"):
        read_json(tmp_path / "sparse.json", dict[str, int])


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, expected in (
        ("pipe", "not a plain file"),
        (".", "cannot be read"),
        ("loop", "Too many levels"),
        ("none", "No such file"),
        ("n" * 300, "name too long"),
        ("a\0b", "null"),
    ):
        with pytest.raises(ArtifactError, match=expected):
            read_json(tmp_path / name, dict[str, int])


def test_what_was_cleaned_can_be_read():
    dirty = {"a\x1b[2J": ["\x9b", ("\u202e", "\udcff", 1.5, None)]}
    text = json.dumps(cleaned(dirty)).encode()
    assert list(parse(text, dict[str, list[object]], "it")) == [r"a\x1b[2J"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"class": "subprocess.Popen"}, "class: string should match pattern"),
        ({"class": "timm.models..os"}, "class: string should match pattern"),
        ({"input_size": [1, 28]}, "input_size"),
        ({"input_size": [64, 30000, 30000]}, "more than"),
        ({"args": {"depth": 10**9}}, "depth is 1000000000, which no architecture has"),
        ({"args": {"depths": [2, {"a": -1e30}]}}, "depths is -1e.30"),
        ({"test_top1": 101}, "test_top1"),
        ({"mean": []}, "mean"),
    ],
)
def test_a_card_is_checked(change, expected):
    card = dict(zoo.card("vit_micro"))
    assert typed(card, Card, "it") == card
    with pytest.raises(ArtifactError, match=expected):
        typed({**card, **change}, Card, "it")


def test_help_does_not_wait_for_what_only_files_need():
    code = (
        "import sys\nfrom prunekit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: sys.exit('pydantic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
