"""Imports run one way: between rooms, and between the files inside each of them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

# A room, or a file of the hall, imports from the floors above its own in this list only.
FLOORS = (
    {"branch", "errors"},
    {"axis", "constant", "files", "globs", "guard", "keywords", "naming", "registry", "shared"},
    {"arguments", "plugin"},
    {"criteria", "adapters", "repairs", "planning"},
    {"tracing"},
    {"auto"},
    {"inputs"},
    {"statistics", "measuring"},
    {"cutting", "weights"},
    {"recovery"},
    {"budgets", "expected"},
    {"result", "request"},
    {"pruning", "artifact", "provision"},
    {"reuse"},
    {"engine", "sensing"},
    {"finetuning", "evaluate", "report", "testing", "comparison", "exporting"},
    {"cli"},
    {"__main__"},
)
EXEMPT = {"__init__"}  # the public names; they are imported when first used
DOORS = {("result", "artifact")}  # Result.save is a public door to what is built upon Result

PACKAGE = Path(__file__).parents[1] / "prunekit"
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
ROOMS = sorted({file.parts[0] for file in FILES if len(file.parts) > 1})


def room(file: Path) -> str:
    """Return the room, or the file of the hall."""
    return file.parts[0].removesuffix(".py")


def module(file: Path) -> str:
    """Return a file's dotted name below prunekit."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(file) for file in FILES}


def imported(source: str, file: Path) -> Iterator[str]:
    """Name the modules of prunekit that a file imports, inside functions too."""
    home = ["prunekit", *file.parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            names = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "prunekit" and rest:
                yield rest if rest in MODULES else rest.rpartition(".")[0] or rest


def violations(source: str, file: Path) -> list[str]:
    own = room(file)
    others = {name.partition(".")[0] for name in imported(source, file)}
    return [
        f"{file} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[other]})"
        for other in sorted(others)
        if other != own and (own, other) not in DOORS and FLOOR[other] >= FLOOR[own]
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return a way from a module back to itself; empty if there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            found = search(other, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next(filter(None, (search(name, []) for name in sorted(graph))), [])


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_only_point_down(file):
    if room(file) not in EXEMPT:
        assert violations((PACKAGE / file).read_text(), file) == []


@pytest.mark.parametrize("name", ROOMS)
def test_no_files_of_a_room_import_each_other_in_a_circle(name):
    graph = {
        module(file): {
            other
            for other in imported((PACKAGE / file).read_text(), file)
            if other != module(file) and other.partition(".")[0] == name
        }
        for file in FILES
        if room(file) == name
    }
    for own, others in graph.items():  # a room's __init__ is the door that its files share
        others.discard(name)
        assert own not in others
    assert circle(graph) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) == []


def test_every_door_is_in_use():
    for own, other in DOORS:
        assert other in set(imported((PACKAGE / f"{own}.py").read_text(), Path(f"{own}.py")))


def test_the_table_names_what_exists_and_nothing_else():
    assert {room(file) for file in FILES} - EXEMPT == set(FLOOR)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("tracing/graph.py", "from ..engine import prune"),
        ("tracing/graph.py", "from .. import cli"),
        ("tracing/graph.py", "def f():\n    from ..measuring.counting import stats"),
        ("axis.py", "import prunekit.engine"),
        ("axis.py", "from prunekit import engine"),
        ("criteria/lamp.py", "from ..adapters.base import Adapter"),
        ("criteria/lamp.py", "from .. import planning"),
        ("errors.py", "from .axis import Axis"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_seen(file, source):
    assert len(violations(source, Path(file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("criteria/lamp.py", "from .base import criterion\nfrom . import CRITERIA"),
        ("criteria/lamp.py", "from ..axis import Axis\nimport torch"),
        ("tracing/graph.py", "from ..axis import AUX, Axis"),
    ],
)
def test_an_import_that_points_down_is_not(file, source):
    assert violations(source, Path(file)) == []


WITH_OTHERS = {"PIL", "huggingface_hub"}  # what torchvision and timm need themselves
EXTRAS = {
    "comparison",
    "recovery",
    "exporting",
    "sensing",
}  # rooms that need what is installed by choice, and say so


def required() -> set[str]:
    """Name what is installed with prunekit, as it is imported."""
    config = ConfigParser()
    config.read(PACKAGE.parent / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return {re.split("[<>=]", line)[0].replace("-", "_") for line in lines}


@pytest.mark.parametrize("file", [file for file in FILES if room(file) not in EXTRAS], ids=str)
def test_what_is_imported_is_installed(file):
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    assert names - sys.stdlib_module_names - WITH_OTHERS <= required()
