"""Imports only point down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# A file imports from lower layers only; a package's own files may import each other.
LAYERS = (
    {"errors", "provenance", "datasets"},
    {"registry", "axis", "structure", "covariance", "walk", "shared", "ranking"},
    {"chain", "plugin", "granularity"},
    {"recipes", "criteria", "adapters", "repairs", "plan", "zoo", "data"},
    {
        "graph",
        "shrink",
        "measure",
        "price",
        "calibrate",
        "models",
        "masks",
        "matrices",
        "semistructured",
    },
    {"training", "reconstruct", "rounds", "subject", "sparsity"},
    {"result", "maskfile"},
    {"verify"},
    {"step", "artifact"},
    {"masking"},
    {"engine"},
    {"finetuning", "evaluate", "report", "testing", "comparison"},
    {"cli"},
    {"__main__"},
)
EXEMPT = {"__init__"}  # the public names; they are imported when first used
DOORS = {("result", "artifact")}  # Result.save is a public door to what is built upon Result

PACKAGE = Path(__file__).parents[1] / "prunekit"
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def part(file: Path) -> str:
    """Return the file or package directly below prunekit."""
    return file.parts[0].removesuffix(".py")


def imported(source: str, file: Path) -> Iterator[str]:
    """Name the parts of prunekit that a file imports, inside functions too."""
    home = ["prunekit", *file.parts[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            modules = [".".join([*stem, alias.name]) for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "prunekit" and rest:
                yield rest.split(".")[0]


def violations(source: str, file: Path) -> list[str]:
    own = part(file)
    return [
        f"{file} (layer {LAYER[own]}) imports {other} (layer {LAYER[other]})"
        for other in imported(source, file)
        if other != own and (own, other) not in DOORS and LAYER[other] >= LAYER[own]
    ]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_only_point_down(file):
    if part(file) not in EXEMPT:
        assert violations((PACKAGE / file).read_text(), file) == []


def test_every_door_is_in_use():
    for own, other in DOORS:
        assert other in imported((PACKAGE / f"{own}.py").read_text(), Path(f"{own}.py"))


def test_the_table_names_what_exists_and_nothing_else():
    assert {part(file) for file in FILES} - EXEMPT == set(LAYER)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph.py", "from .engine import prune"),
        ("graph.py", "from . import cli"),
        ("graph.py", "def f():\n    from .measure import stats"),
        ("graph.py", "import prunekit.engine"),
        ("graph.py", "from prunekit import engine"),
        ("criteria/lamp.py", "from ..adapters.base import Adapter"),
        ("criteria/lamp.py", "from .. import plan"),
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
        ("graph.py", "from .axis import AUX, Axis"),
    ],
)
def test_an_import_that_points_down_is_not(file, source):
    assert violations(source, Path(file)) == []
