"""Damage: what may happen to the files of a directory, by accident or by design."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DEEP = "[" * 100_000 + "]" * 100_000
# JSON that Python's json would not write, or not so; put in as it is.
RAW = ("NaN", "-Infinity", "1e400", "1e308", "-1e999999", "9" * 5000, DEEP, '"\\ud800"', "01", "")


@dataclass(frozen=True)
class Raw:
    """JSON text, right or wrong, by its number in `RAW`."""

    number: int


@dataclass(frozen=True)
class Flip:
    """Flip a bit, somewhere between the start (0) and the end (1) of a file."""

    file: int
    where: float
    bit: int


@dataclass(frozen=True)
class Cut:
    """Keep only the first part of a file."""

    file: int
    share: float


@dataclass(frozen=True)
class Swap:
    """Exchange the contents of two files."""

    one: int
    other: int


@dataclass(frozen=True)
class Put:
    """Put something else in a file's place: see `_PUTS`."""

    file: int
    what: str


@dataclass(frozen=True)
class Plant:
    """Put a pickle that runs code in a file's place, or under a name of its own."""

    name: str


@dataclass(frozen=True)
class Edit:
    """Change a JSON file, and then all digests that an artifact keeps of it.

    Attributes:
        file: Its name.
        path: Where, from the root: keys by name, or by number where the name may vary.
        value: What to put there; None with `drop` takes the entry out.
        how: "set", "drop" or "add" (an entry that nobody expects).
    """

    file: str
    path: tuple[str | int, ...]
    value: Any = None
    how: str = "set"


Damage = Flip | Cut | Swap | Put | Plant | Edit
PICKLES = (
    "custom_checkpoint_0.pkl", "custom_checkpoint_1.pkl", "random_states_0.pkl", "optimizer.bin",
    "scheduler.bin", "sampler.bin", "pytorch_model.bin", "model.safetensors", "training.pt",
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 1, 1.5, 10**9, 10**30, "", "x", "\x1b[31mred\x1b]0;t\x07", "x" * 10_000,
    "../../..", "/etc/passwd", "hf-hub:evil/repo", [], {}, [None], {"a": 1}, [[1]], ["\x1b[2J"],
    *(Raw(number) for number in range(len(RAW))),
)  # fmt: skip


def files() -> st.SearchStrategy[int]:
    """Return which file, by its place among all of a directory."""
    return st.integers(0, 20)


def accidents() -> st.SearchStrategy[Damage]:
    """Return what disks, transfers and clumsy hands do."""
    share = st.floats(0, 1)
    return st.one_of(
        st.builds(Flip, files(), share, st.integers(0, 7)),
        st.builds(Flip, files(), share, st.integers(0, 7)),
        st.builds(Cut, files(), st.one_of(st.just(0.0), share)),
        st.builds(Swap, files(), files()),
        st.builds(Put, files(), st.sampled_from(sorted(_PUTS))),
    )


def edits(*names: str) -> st.SearchStrategy[Edit]:
    """Return hostile values anywhere in JSON files of these names."""
    path = st.lists(st.integers(0, 30), min_size=1, max_size=6).map(tuple)
    how = st.sampled_from(["set", "set", "set", "drop", "add"])
    return st.builds(Edit, st.sampled_from(names), path, st.sampled_from(VALUES), how)


def inflict(damage: Damage, root: Path, marker: Path) -> bool:
    """Damage the files below a directory; return whether anything has changed.

    Args:
        damage: What to do.
        root: Where.
        marker: The file that planted code would write.
    """
    found = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    before = {path: path.read_bytes() for path in found}
    match damage:
        case Flip(file, where, bit):
            path = found[file % len(found)]
            content = bytearray(before[path]) or bytearray(1)
            content[min(int(where * len(content)), len(content) - 1)] ^= 1 << bit
            path.write_bytes(content)
        case Cut(file, share):
            path = found[file % len(found)]
            path.write_bytes(before[path][: int(share * len(before[path]))])
        case Swap(one, other):
            first, second = found[one % len(found)], found[other % len(found)]
            first.write_bytes(before[second])
            second.write_bytes(before[first])
        case Put(file, what):
            path = found[file % len(found)]
            path.unlink()
            _PUTS[what](path)
        case Plant(name):
            homes = [path.parent for path in found if path.name == name]
            homes = homes or [max(found, key=lambda path: len(path.parts)).parent]
            (homes[0] / name).write_bytes(pickle.dumps(_Payload(str(marker))))
        case Edit():
            _edit(damage, root)
    return any(not same(path, content) for path, content in before.items())


def same(path: Path, content: bytes) -> bool:
    """Whether a file still has the contents it had; it may have become a very large one."""
    if not path.is_file() or path.stat().st_size != len(content):
        return False
    return path.read_bytes() == content


class _Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 5 << 29)


_PUTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "sparse": _sparse,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "empty-object": lambda path: path.write_text("{}"),
    "list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "deep": lambda path: path.write_text(DEEP),
    "header": lambda path: path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}"),
    "zip": lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


def _edit(edit: Edit, root: Path) -> None:
    path = root / edit.file
    if not path.is_file():
        return
    data = json.loads(path.read_text("utf-8"))
    _change(data, edit)
    path.write_text(_text(data), "utf-8")
    if (root / "plan.json").is_file():
        renew(root)


def _change(data: Any, edit: Edit) -> None:
    """Walk along the path as far as it goes, and change what is there."""
    here = data
    *way, last = edit.path
    for step in way:
        key = _key(here, step)
        if key is None or not isinstance(here[key], dict | list) or not here[key]:
            last = step
            break
        here = here[key]
    if edit.how == "add" and isinstance(here, dict):
        here["an entry that nobody expects"] = edit.value
        return
    key = _key(here, last)
    if key is None and isinstance(here, dict) and isinstance(last, str):
        key = last
    if key is None:
        return
    if edit.how == "drop":
        del here[key]
    else:
        here[key] = edit.value


def _key(here: Any, step: str | int) -> Any:
    keys = list(here) if isinstance(here, dict) else list(range(len(here)))
    if step in keys or (isinstance(step, str) and isinstance(here, dict)):
        return step if step in keys else None
    return keys[int(step) % len(keys)] if keys and isinstance(step, int) else None


def _text(data: Any) -> str:
    """Return JSON, with raw parts as they are."""

    def mark(value: Any) -> str:
        return f"RAW-{value.number}-WAR"

    text = json.dumps(data, indent=1, default=mark)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"RAW-{number}-WAR"', raw)
    return text


def renew(directory: Path) -> None:
    """Make the digests of an artifact right again, as whoever forges one would."""
    plan, report = directory / "plan.json", directory / "report.json"
    try:
        known = json.loads(plan.read_text("utf-8"))
        known["weights_sha256"] = _digest(directory / "model.safetensors")
        if "masks_sha256" in known and (directory / "masks.safetensors").is_file():
            known["masks_sha256"] = _digest(directory / "masks.safetensors")
        if json.loads(plan.read_text("utf-8")) != known:
            plan.write_text(json.dumps(known, indent=1), "utf-8")
    except (ValueError, TypeError, RecursionError):
        pass  # nobody can read it; prunekit must say so
    text = report.read_text("utf-8")
    marked = text.replace(_between(text, '"plan_sha256": "'), _digest(plan), 1)
    try:
        told = json.loads(marked)
        told.pop("sha256", None)
        whole = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    except (ValueError, TypeError, AttributeError, RecursionError):
        whole = "0" * 64
    old = _last(marked, '"sha256": "')
    report.write_text(marked.replace(f'"sha256": "{old}"', f'"sha256": "{whole}"'), "utf-8")


def _between(text: str, before: str) -> str:
    return text.partition(before)[2].partition('"')[0] or "\0"


def _last(text: str, before: str) -> str:
    return text.rpartition(before)[2].partition('"')[0] or "\0"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(source: Path, target: Path) -> Path:
    """Copy a directory."""
    return Path(shutil.copytree(source, target))
