"""Plug-ins: found by name, read lazily, never silently replaced."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from prunekit.adapters import ADAPTERS
from prunekit.criteria import CRITERIA
from prunekit.errors import PluginWarning, RegistryError
from prunekit.registry import Registry

GROUP = "prunekit.tests"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Thing:
    origin: str


def registry(**builtin: str) -> Registry[Thing]:
    return Registry("thing", GROUP, builtin)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a package with one entry point on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package: str, name: str, source: str | None, attribute: str = "thing") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {package}:{attribute}\n")
        if source is not None:
            (tmp_path / f"{package}.py").write_text(source)

    yield install
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


SOURCE = '''"""A thing from elsewhere.

More about it.
"""
from test_registry import Thing
thing = Thing("elsewhere:thing")
'''


# --- memory and built-in -------------------------------------------------------------------


@pytest.mark.parametrize("plugins", [CRITERIA, ADAPTERS])
def test_every_built_in_name_leads_to_a_plug_in_of_that_name(plugins):
    for name in plugins.builtin_names():
        plugin = plugins.get(name)
        assert plugin.name == name
        assert plugin.origin == plugins._builtin[name]
        assert plugins.summary(name).endswith(".") or ":" in plugins.summary(name)


def test_names_list_built_in_ones_first():
    things = registry(zebra="somewhere:zebra")
    things.add("ant", Thing("here:ant"))
    assert things.names() == ["zebra", "ant"]
    assert things.builtin_names() == ["zebra"]


def test_an_unknown_name_earns_a_suggestion():
    with pytest.raises(
        RegistryError, match=r"No criterion is called 'dimpa'\. Did you mean 'dimap'"
    ):
        CRITERIA.get("dimpa")


def test_a_name_like_no_other_earns_the_list():
    things = registry(ant="x:ant", bee="x:bee")
    with pytest.raises(RegistryError, match=r"No thing is called 'zzzzzz'\. Known: ant, bee\."):
        things.get("zzzzzz")


def test_a_name_of_any_length_is_quoted_in_part():
    with pytest.raises(RegistryError, match=r"is called 'x{200}\.\.\.'") as caught:
        CRITERIA.get("x" * 5000)
    assert len(str(caught.value)) < 500


def test_a_taken_name_is_refused_even_if_it_was_never_loaded():
    things = registry(ant="there:ant")
    with pytest.raises(RegistryError, match=r"thing name 'ant' is taken by there:ant; .* here:ant"):
        things.add("ant", Thing("here:ant"))


def test_defining_the_same_thing_again_replaces_it():
    things = registry()
    things.add("ant", Thing("here:ant"))
    again = Thing("here:ant")
    things.add("ant", again)
    assert things.get("ant") is again


# --- entry points ----------------------------------------------------------------------------


def test_listing_and_summing_up_import_nothing(install):
    install("elsewhere", "bug", SOURCE)
    things = registry()
    assert things.names() == ["bug"]
    assert things.summary("bug") == "A thing from elsewhere."
    assert "elsewhere" not in sys.modules

    assert things.get("bug").origin == "elsewhere:thing"
    assert "elsewhere" in sys.modules


def test_importing_one_plug_in_leaves_the_others_alone(install):
    install("elsewhere", "bug", SOURCE)
    install("faraway", "bat", SOURCE)
    registry().get("bug")
    assert "faraway" not in sys.modules


def test_two_packages_that_claim_one_name_are_refused(install):
    install("elsewhere", "bug", SOURCE)
    install("faraway", "bug", SOURCE)
    both = "'bug' is claimed by .*(elsewhere:thing and faraway|faraway:thing and elsewhere)"
    with pytest.raises(RegistryError, match=f"{both}.*uninstall all but one"):
        registry().get("bug")


def test_a_package_that_claims_a_built_in_name_is_refused(install):
    install("elsewhere", "bug", SOURCE)
    with pytest.raises(RegistryError, match="'bug' is claimed by here:bug and elsewhere:thing"):
        registry(bug="here:bug").get("bug")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "No module named 'broken'"),
        ("import not_there_at_all\n", "No module named 'not_there_at_all'"),
        ("something_else = 1\n", "no attribute 'thing'"),
    ],
)
def test_an_entry_point_that_cannot_be_imported_is_explained(install, source, reason):
    install("broken", "bug", source)
    with pytest.raises(RegistryError, match=rf"'bug' is declared as broken:thing, .*{reason}"):
        registry().get("bug")


def test_a_broken_package_does_not_spoil_the_list(install):
    install("broken", "bug", None)
    things = registry()
    assert things.names() == ["bug"]
    assert things.summary("bug") == "cannot be used: ModuleNotFoundError: No module named 'broken'"


BROKEN = [
    ("def (:\n", "SyntaxError"),
    ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ("thing = 3\n", "which is int; expected Thing"),
]


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_whatever_is_wrong_with_a_package_is_told(install, source, reason):
    install("broken", "bug", source)
    things = Registry("thing", GROUP, {}, kind="test_registry:Thing")
    with pytest.raises(RegistryError, match=rf"'bug' is declared as broken:thing, .*{reason}"):
        things.get("bug")


@pytest.mark.parametrize(("source", "reason"), BROKEN)
def test_a_broken_package_is_reported_once_and_passed_over(install, source, reason):
    install("broken", "bug", source)
    install("elsewhere", "bat", SOURCE)
    things = Registry("thing", GROUP, {}, kind="test_registry:Thing")
    with pytest.warns(PluginWarning, match=rf"'bug' .*{reason}.*It is passed over\."):
        assert [thing.origin for thing in things.usable()] == ["elsewhere:thing"]
    assert len(things.usable()) == 1  # with no other warning
    assert reason.split(";")[0] in things.broken["bug"]


def test_a_syntax_error_does_not_spoil_the_list_of_summaries(install):
    install("broken", "bug", "def (:\n")
    install("elsewhere", "bat", SOURCE)
    things = registry()
    assert things.summary("bug").startswith("cannot be used: SyntaxError: ")
    assert things.summary("bat") == "A thing from elsewhere."


def test_a_name_that_two_packages_claim_does_not_spoil_the_list(install):
    install("elsewhere", "bug", SOURCE)
    install("faraway", "bug", SOURCE)
    things = registry()
    assert "uninstall all but one" in things.summary("bug")
    with pytest.warns(PluginWarning, match="claimed by"):
        assert things.usable() == []


def test_a_summary_is_read_without_importing_the_package_around_it(install, tmp_path):
    install("outer.inner", "bug", None)
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "__init__.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "outer" / "inner.py").write_text('"""Inside."""\n')
    assert registry().summary("bug") == "Inside."
    assert "outer" not in sys.modules


def test_what_is_defined_in_a_notebook_has_no_summary_and_is_not_broken():
    things = registry()
    things.add("ant", Thing("cell_of_a_notebook:ant"))
    assert things.summary("ant") == ""


# --- speed -------------------------------------------------------------------------------------


def test_listing_plug_ins_imports_neither_torch_nor_timm():
    code = (
        "import sys, prunekit\n"
        "from prunekit.criteria import CRITERIA\n"
        "from prunekit.adapters import ADAPTERS\n"
        "assert 'dimap' in CRITERIA.names() and CRITERIA.summary('dimap')\n"
        "assert 'swin_t' in ADAPTERS.get('swin').aliases\n"
        "print(sorted({'torch', 'timm', 'numpy', 'torchvision'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
