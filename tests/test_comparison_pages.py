"""Pages say what the findings say, to whoever reads them."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sample_findings import sample, tiny

from prunekit.comparison.findings import Findings, Row, Standing
from prunekit.comparison.pages import csv_text, html, markdown, write_pages
from prunekit.comparison.pages.panels import LATENCY, MACS, Panel, Point, front, panels
from prunekit.comparison.pages.words import count, fixed, series, settled

FILES = ["figure.svg", "report.csv", "report.html", "report.json", "report.md"]
EVIL = "<script>alert(1)</script>"


class Tables(HTMLParser):
    """Reads the rows of a table, its tags and its attributes."""

    def __init__(self, page: str, table: str):
        super().__init__()
        self.table, self.rows, self.inside, self.cell = table, [], False, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "table":
            self.inside = found.get("id") == self.table
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.cell = True
            self.rows[-1].append([found.get("data-v"), ""])

    def handle_endtag(self, tag):
        self.inside &= tag != "table"
        self.cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside and self.cell:
            self.rows[-1][-1][1] += data


@pytest.fixture(scope="module")
def findings() -> Findings:
    return sample()


@pytest.fixture(scope="module")
def page(findings) -> str:
    return html(findings)


@pytest.fixture(scope="module")
def small() -> Findings:
    return sample(("swin_micro",), ("random", "lamp", "dimap"), (0.3, 0.5), ("none",), ("none",))


def every(findings: Findings) -> Iterator[tuple[Standing, Row]]:
    return ((standing, row) for standing in findings.standings for row in standing.rows)


def renamed(findings: Findings, old: str, new: str) -> Findings:
    def walk(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(walk(item) for item in value)
        if hasattr(value, "__dataclass_fields__"):
            changed = {name: walk(getattr(value, name)) for name in value.__dataclass_fields__}
            return replace(value, **changed)
        return new if value == old else value

    return walk(findings)


def test_five_files_are_written_whole_and_named(small, tmp_path):
    paths = write_pages(small, tmp_path / "new" / "place")

    assert sorted(path.name for path in paths) == FILES
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == FILES
    assert (tmp_path / "new/place/report.html").read_text("utf-8") == html(small)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(small, tmp_path, monkeypatch):
    write_pages(small, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))

    with pytest.raises(OSError, match="full"):
        write_pages(replace(small, answer="Another answer."), tmp_path)

    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_same_findings_give_the_same_bytes_in_another_process(small, tmp_path):
    here = write_pages(small, tmp_path / "here")
    code = (
        "from pathlib import Path\nfrom sample_findings import sample\n"
        "from prunekit.comparison.pages import write_pages\n"
        "small = sample(('swin_micro',), ('random', 'lamp', 'dimap'), (0.3, 0.5),"
        " ('none',), ('none',))\n"
        f"write_pages(small, Path({str(tmp_path / 'there')!r}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)

    for path in here:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_json_is_the_findings(small, tmp_path):
    write_pages(small, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text("utf-8"))

    assert read == json.loads(json.dumps(small.to_json()))
    assert read["standings"][0]["rows"][0]["top1"] == small.standings[0].rows[0].top1


def test_csv_has_a_line_for_each_row_in_full_precision(findings):
    lines = list(csv.DictReader(io.StringIO(csv_text(findings))))
    rows = list(every(findings))

    assert len(lines) == len(rows) == 360
    for line, (standing, row) in zip(lines, rows, strict=True):
        assert (line["arch"], line["repair"]) == (standing.column.arch, standing.column.repair)
        assert float(line["ratio"]) == standing.column.ratio
        assert (line["criterion"], line["scope"]) == (row.criterion, row.scope)
        for name in ("got", "params", "macs", "top1", "low", "high", "lost", "deviation"):
            assert (float(line[name]) if line[name] else None) == getattr(row, name), name
        speedup = (row.speedup or {}).get("8")
        assert (float(line["speedup_batch_8"]) if speedup else None) == speedup
        assert (line["missed"], line["leads"]) == (str(row.missed).lower(), str(row.leads).lower())
        assert line["problem"] == (row.problem or "")


def test_markdown_has_every_row_in_the_order_of_the_ranking(findings):
    text = markdown(findings)
    rankings = text.partition("## Rankings")[2].partition("## What a criterion costs")[0]
    lines = [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in rankings.splitlines()
             if re.match(r"\| (\d|–)", line)]  # fmt: skip
    rows = [row for _, row in every(findings)]

    assert findings.answer in text
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line[:4] == [str(row.rank or "–"), row.criterion, row.scope, fixed(row.top1)]
        assert line[6 - 1] == fixed(row.lost)
    for standing in findings.standings:
        assert standing.sentence in text


def test_markdown_tables_are_aligned(findings):
    for block in re.findall(r"(?:^\|.*\n)+", markdown(findings), re.M):
        assert len({len(line) for line in block.splitlines()}) == 1, block


def test_the_html_table_has_the_figures_of_every_row(findings, page):
    head, *lines = Tables(page, "rows").rows
    place = {text.split(" dense")[0]: i for i, (_, text) in enumerate(head)}
    rows = list(every(findings))

    assert len(lines) == len(rows)
    for line, (standing, row) in zip(lines, rows, strict=True):
        assert line[place["Criterion"]][1].split()[0] == row.criterion
        assert line[place["Model"]][1] == standing.column.arch
        for title, value in {"Top-1 %": row.top1, "Lost": row.lost, "MACs": row.macs}.items():
            exact, shown = line[place[title]]
            assert (float(exact) if exact else None) == value
            assert shown == (count(value) if title == "MACs" else fixed(value))
        speedup = (row.speedup or {}).get("8")
        assert line[place["Latency"]][1] == fixed(1 / speedup if speedup else None)


def test_leaders_and_those_without_a_rank_are_told_in_words(findings, page):
    head, *lines = Tables(page, "rows").rows
    place = [text for _, text in head].index("Standing")
    for line, (standing, row) in zip(lines, every(findings), strict=True):
        words = line[place][1]
        leaders = sum(other.leads for other in standing.rows)
        assert ("tied for the lead" in words) == (row.leads and leaders > 1)
        assert ("leads" in words) == (row.leads and leaders == 1)
        assert ("Removed 62.00% where 70.00% was asked" in words) == row.missed
        assert (row.problem is None) or row.problem in words


def test_the_answer_comes_before_any_figure_or_table(findings, page):
    body = page[page.index("<body>") :]
    assert 0 < body.index(findings.answer) < min(body.index("<figure"), body.index("<table"))


def test_the_page_names_command_versions_hardware_seeds_and_cost(findings, page):
    for text in (
        findings.origin.command,
        *findings.origin.versions.values(),
        *findings.origin.devices,
        findings.origin.timed_on,
        ", ".join(map(str, findings.origin.seeds)),
        "40.0 MB",
    ):
        assert text in page


@pytest.mark.parametrize("make", [html, markdown])
def test_missing_cells_are_told_and_nothing_is_told_of_none(make, small):
    unfinished = replace(small, origin=replace(small.origin, missing=2))
    assert f"2 of {small.origin.cells} cells have not been run yet" in make(unfinished)
    assert "not been run" not in make(small)


@pytest.mark.parametrize("old", ["lamp", "swin_micro", "none", "kind", "mlp"])
def test_no_name_becomes_markup(old, small, tmp_path):
    changed = replace(renamed(small, old, EVIL), answer=EVIL)
    changed = replace(changed, origin=replace(changed.origin, command=EVIL))
    write_pages(changed, tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")
    assert EVIL not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;" in page
    assert EVIL not in (tmp_path / "report.md").read_text("utf-8").replace(f"$ {EVIL}", "")
    ElementTree.parse(tmp_path / "figure.svg")  # is well-formed


def test_quotes_and_dollars_and_any_script_are_text(small, tmp_path):
    name = """a" onload='x' $\\frac{1}$ | `b` 判据"""
    write_pages(renamed(small, "lamp", name), tmp_path)

    tree = ElementTree.parse(tmp_path / "figure.svg")
    assert not [node for node in tree.iter() if "onload" in node.attrib]
    texts = ["".join(node.itertext()) for node in tree.iter() if node.tag.endswith("text")]
    assert any(text.startswith('a" onload=') for text in texts)
    lines = [line for line in (tmp_path / "report.md").read_text("utf-8").splitlines()
             if "onload" in line and line.startswith("|")]  # fmt: skip
    assert lines
    assert all("\\|" in line and "\\`b\\`" in line for line in lines)


def test_nothing_is_loaded_from_anywhere(page, small, tmp_path):
    write_pages(small, tmp_path)
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert set(re.findall(r'\b(?:src|href)="([^"#][^"]*)"', page)) <= {"data:,"}
    names = {"http://www.w3.org/2000/svg"}  # a name, which is not looked up
    assert set(re.findall(r"https?://[^\"']+", (tmp_path / "figure.svg").read_text())) <= names


def test_identifiers_are_used_once_and_references_lead_somewhere(page):
    found = re.findall(r'\bid="([^"]+)"', page)
    assert len(found) == len(set(found))
    aims = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    aims |= set(re.findall(r'aria-labelledby="([^"]+)"', page))
    assert aims <= set(found)


def test_colours_of_figures_follow_the_theme(page, small, tmp_path):
    write_pages(small, tmp_path)
    for text in (page, (tmp_path / "figure.svg").read_text()):
        drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
        shapes = re.sub(r"<style>.*?</style>", "", drawn, flags=re.S)
        assert "var(--s1)" in shapes
        assert not re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", shapes)


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(level) for level in re.findall(r"<h(\d)\b", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_figure_says_what_it_shows(page):
    drawings = re.findall(r'<svg[^>]*role="img"[^>]*>(.{0,60})', page, re.S)
    assert len(drawings) > 24
    assert all(re.match(r'\s*<title id="[^"]+">\w', start) for start in drawings)


def test_a_large_grid_stays_below_three_megabytes(page):
    assert len(page.encode()) < 3_000_000


@pytest.mark.parametrize(
    "findings",
    [
        tiny(),
        replace(tiny(), standings=()),
        sample(("swin_micro",), ("lamp",), (0.5,), ("none",), ("none",)),
        sample(("swin_micro",), ("random",), (0.5,), ("lstsq",), ("quick",)),
        replace(sample(("vit_micro",), ("random", "lamp"), (0.5,)), dense=()),
    ],
    ids=["problem", "nothing", "one criterion", "control only", "no dense model"],
)
def test_tiny_findings_give_whole_pages(findings, tmp_path):
    write_pages(findings, tmp_path)

    page = (tmp_path / "report.html").read_text("utf-8")
    assert findings.answer in page
    assert "None" not in re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    assert not re.search(r"\bnan\b", page)
    ElementTree.parse(tmp_path / "figure.svg")
    assert (tmp_path / "report.md").read_text("utf-8").startswith("# Criteria compared")


def test_a_criterion_in_several_scopes_is_a_row_and_a_series_for_each(small):
    both = tuple(
        replace(standing, rows=(*standing.rows, replace(standing.rows[-1], scope="axis")))
        for standing in small.standings
    )
    changed = replace(small, standings=both, kept=())
    doubled = {standing.rows[-1].criterion for standing in both}
    assert doubled == {"random"}

    assert list(series(changed)) == ["dimap", "lamp", "random, scope axis", "random, scope kind"]
    assert [entry.control for entry in series(changed).values()] == [False, False, True, True]
    assert "random, scope axis" in markdown(changed)


def test_the_front_is_what_nothing_cheaper_beats():
    points = [Point(cost, top1, 0, 0) for cost, top1 in
              [(5, 90), (1, 70), (2, 60), (3, 80), (3, 85), (4, 85), (6, 89)]]  # fmt: skip
    assert [(p.cost, p.top1) for p in front(points)] == [(1, 70), (3, 85), (5, 90)]


def _curve(panel: Panel, name: str) -> list[Point]:
    return next(list(c.points) for c in panel.curves if c.series.name == name)


def test_panels_place_models_by_their_macs_and_their_relative_latency(small):
    rows = [row for _, row in every(small) if row.criterion == "lamp"]  # 30 % and then 50 %
    [macs], [latency] = panels(small, MACS), panels(small, LATENCY)

    assert [point.cost for point in _curve(macs, "lamp")] == [row.macs for row in rows]
    assert [point.top1 for point in _curve(macs, "lamp")] == [row.top1 for row in rows]
    assert [p.cost for p in _curve(latency, "lamp")] == [1 / row.speedup["8"] for row in rows]
    assert (macs.dense.cost, latency.dense.cost) == (small.dense[0].macs, 1.0)


def test_only_several_seeds_have_a_range(small):
    [panel] = panels(small, MACS)
    rows = [row for _, row in every(small) if row.criterion == "random"]
    assert [(p.worst, p.best) for p in _curve(panel, "random")] == [
        (row.worst, row.best) for row in rows
    ]
    assert {(p.worst, p.best) for p in _curve(panel, "lamp")} == {(None, None)}


def test_rows_without_figures_are_left_out_of_the_panels(findings):
    [panel] = [p for p in panels(findings, MACS) if p.arch == "vit_micro"][:1]
    assert len(_curve(panel, "fpgm")) == 2
    assert len(_curve(panel, "lamp")) == 3


def test_numbers_have_their_unit_and_no_negative_zero():
    assert [count(v) for v in (950, 9_996, 999_999, 5_300_000, 27.8e6, 4.09e9, None)] == [
        "950", "10.0 k", "1.00 M", "5.30 M", "27.8 M", "4.09 G", "–",
    ]  # fmt: skip
    assert fixed(-0.001) == "0.00"
    assert fixed(None) == "–"


def test_axes_that_leave_no_choice_are_called_default(tmp_path):
    findings = sample()
    first, *_ = archs = list(dict.fromkeys(s.column.arch for s in findings.standings))
    assert len(archs) > 1
    each = {arch: ("mlp",) if arch == first else ("mlp", "head") for arch in archs}

    def with_axes(choose):
        changed = (replace(s.column, axes=choose(s.column)) for s in findings.standings)
        pairs = zip(findings.standings, changed, strict=True)
        return replace(findings, standings=tuple(replace(s, column=c) for s, c in pairs))

    own = with_axes(lambda column: each[column.arch])
    assert {s.column.axes for s in settled(own).standings} == {("default",)}
    same = with_axes(lambda column: ("mlp",))
    assert settled(same) == same
    both = with_axes(lambda column: ("mlp",) if column.ratio == 0.5 else ("mlp", "head"))
    assert settled(both) == both
    write_pages(own, tmp_path)
    rows = csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text()))
    assert {row["axes"] for row in rows} == {"mlp", "mlp+head"}
    assert all(f">{arch}<" in (tmp_path / "figure.svg").read_text() for arch in archs)


def test_budgets_of_latency_and_sensitivities_are_told_on_both_pages(small):
    page, text = html(small), markdown(small)
    assert "Latency: asked, predicted, measured" in page
    assert "| lamp      | 0    | 8     | 30 %  | 31.00 %   | 29.00 %" in text
    assert "25.00 % to 33.00 %" in page
    assert "25.00 % to 33.00 %" in text
    assert 'id="sensitivity"' in page
    assert "Dearest: blocks.0.attn.block without 100%, 2.0e-01 nats." in page
    assert "| blocks.0.mlp        | 75 %  | 4.0e-03" in text  # as far as it was cut
    without = replace(small, met=(), sensed=())
    for whole in (html(without), markdown(without)):
        assert "asked, predicted" not in whole
        assert "Sensitivity" not in whole


def test_timed_quartiles_are_drawn_and_kept_in_sight(small):
    rows = [row for standing in small.standings for row in standing.rows if row.speedup]
    spread = {batch: (0.5 / s, 1.5 / s) for batch, s in (rows[0].speedup or {}).items()}
    standing = small.standings[0]
    changed = replace(standing, rows=tuple(
        replace(row, latency_spread=spread) if row.speedup else row for row in standing.rows
    ))  # fmt: skip
    points = [
        point
        for panel in panels(replace(small, standings=(changed,)), LATENCY)
        for curve in panel.curves
        for point in curve.points
    ]
    assert points
    largest = max(spread, key=int)
    assert all((point.fast, point.slow) == spread[largest] for point in points)
