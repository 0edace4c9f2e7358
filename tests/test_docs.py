"""What the pages of docs/ show is what happens."""

import argparse
import re
import shlex

import pytest
from pages import DOCS, README, ROOT, blocks, own_plugins, run

from prunekit.cli import _parser
from prunekit.comparison.grid import Grid
from prunekit.criteria import CRITERIA

ELSEWHERE = {"own_adapter.md"}  # run by test_own_adapter.py
WARNS = {"parts.md": "ignore:.*does not run without values"}
PAGES = {page.name: page for page in [README, *DOCS]}
RUN = [page for page in DOCS if blocks(page, "python") and page.name not in ELSEWHERE]


def any_model(seen):
    assert seen[-1]["result"].parity.holds


def compare(seen):
    assert seen[-1]["failures"] == []
    assert "dimap leads on convnext_micro" in seen[-1]["findings"].answer


def parts(seen):
    found = seen[0]["result"]
    assert found.got == pytest.approx(0.4, abs=0.005)
    small = seen[-1]["small"].backbone.body
    assert found.part[1].params == sum(parameter.numel() for parameter in small.parameters())
    assert all(names["result"].parity.holds for names in seen)


def recovery(seen):
    gains = seen[-1]["result"].rounds[0].repaired
    assert gains
    assert all(gain.after < gain.before for gain in gains.values())


def weight_level(seen):
    assert seen[-1]["result"].got == pytest.approx(0.5, abs=1e-6)
    assert len(seen[-1]["masks"]) == 40


CLAIMS = {f"{claim.__name__}.md": claim for claim in (any_model, compare, parts, recovery)}
CLAIMS["weight_level.md"] = weight_level


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.filterwarnings(WARNS[page.name])])
        if page.name in WARNS
        else page
        for page in RUN
    ],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs_and_prints_what_is_shown(page, tmp_path):
    seen = []  # the names as they were after each block
    with own_plugins():
        run(page, tmp_path, lambda names: seen.append(dict(names)))
    CLAIMS.get(page.name, lambda seen: None)(seen)


def test_every_claim_is_about_a_page_that_is_run():
    assert CLAIMS.keys() | WARNS.keys() <= {page.name for page in RUN}
    assert set(PAGES) >= ELSEWHERE


def documented():
    """Return every command of prunekit in a console block, as (page, line, words)."""
    for page in PAGES.values():
        for block in blocks(page, "console"):
            text = re.sub(r"\\\n\s*", " ", block.text)
            for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
                for command in re.split(r" (?:&&|\|\|?|;) ", line):
                    words = shlex.split(command, comments=True)
                    if words[:1] == ["prunekit"]:
                        yield page.name, command, words[1:]


def options(parser):
    return {option for action in parser._actions for option in action.option_strings}


def commands():
    """Return the parser of every command by its name."""
    (found,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return found.choices


@pytest.mark.parametrize(
    ("page", "command", "words"),
    [pytest.param(*one, id=f"{one[0]}: {one[1]}") for one in documented()],
)
def test_a_command_that_is_shown_can_be_read(page, command, words):
    _parser().parse_args(words)
    known = options(commands()[words[0]])
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_an_option_that_is_mentioned_is_there(page):
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    anywhere = set().union(options(_parser()), *map(options, commands().values()))
    for span in re.findall(r"`([^`]+)`", text):
        words = span.split()
        if words[0] == "prunekit" and words[1:2] and words[1] in commands():
            known = options(commands()[words[1]])
        elif words[0].startswith("--"):
            known = anywhere
        else:  # of another program
            continue
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, span


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_every_linked_file_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_grid_written_in_toml_is_a_grid(tmp_path):
    (block,) = blocks(PAGES["compare.md"], "toml")
    (tmp_path / "zoo.toml").write_text(block.text)
    grid = Grid.read(tmp_path / "zoo.toml", {})
    assert len(grid.cells({"swin_micro": ("mlp",), "vit_micro": ("mlp",)})) == 192


def test_the_first_run_is_that_of_the_readme():
    (shown,) = (b for b in blocks(PAGES["index.md"], "console") if "prunekit run" in b.text)
    assert shown.text.removeprefix("$ ") in README.read_text()


def test_the_table_of_criteria_is_what_they_declare():
    rows = re.findall(r"^\| \[`(\w+)`\].*\|$", PAGES["criteria.md"].read_text(), re.MULTILINE)
    assert rows == CRITERIA.builtin_names()
    for name in rows:
        found = CRITERIA.get(name)
        weights = "yes" if found.weight_level else "no"
        if found.weight_scope is not None:
            weights += f", in scope {found.weight_scope}"
        defaults = ", ".join(f"`{option}={value}`" for option, value in found.defaults.items())
        cells = [f"[`{name}`](#{name})", found.needs.replace("_", " "), found.scope, weights]
        assert f"| {' | '.join([*cells, defaults])} |".replace("  ", " ") in (
            PAGES["criteria.md"].read_text()
        )


@pytest.mark.parametrize("name", CRITERIA.builtin_names())
def test_a_criterion_is_described_with_the_paper_that_its_docstring_cites(name):
    page = PAGES["criteria.md"].read_text()
    (section,) = re.findall(rf"^## {name}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    cited = re.findall(r"arXiv:(\d+\.\d+)", CRITERIA.get(name).function.__doc__)
    assert re.findall(r"arxiv\.org/abs/(\d+\.\d+)", section) == cited
    assert "score" in section
    assert "Use it" in section


def test_every_report_is_listed():
    text = PAGES["reports.md"].read_text()
    reports = (ROOT / "benchmarks" / "results").rglob("*.md")
    missing = [report for report in reports if f"(../{report.relative_to(ROOT)})" not in text]
    assert not missing
