"""The report in a real browser: one Chromium, one page for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_findings import sample, tiny

from prunekit.comparison.findings import Findings
from prunekit.comparison.pages import html

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium to test with")

PHONE, DESK = (360, 740), (1280, 900)
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def findings() -> Findings:
    criteria = ("random", "magnitude", "lamp", "dimap", "fpgm", "a" * 60)
    return sample(("swin_micro", "vit_micro"), criteria, (0.5, 0.7), recipes=("none",))


@pytest.fixture(scope="module")
def report(findings, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    path.write_text(html(findings), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, report) -> Iterator[Open]:
    """Open the report; whatever a test does there, nothing may go wrong or be asked for."""
    contexts, wrong, asked = [], [], []

    def open_page(size: tuple[int, int] = DESK, path: Path = report, **options: Any) -> Any:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url for url in asked if not url.startswith("data:")} <= {
        url for url in asked if url.startswith("file:") and url.endswith(".html")
    }


def overflow(page: Any) -> int:
    """Return by how much the page is wider than the window, with everything opened."""
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    root = "document.documentElement"
    return int(page.evaluate(f"{root}.scrollWidth - {root}.clientWidth"))


def shown(page: Any, table: str = "#rows") -> Any:
    return page.locator(f"{table} tbody tr:visible")


def values(page: Any, heading: str, table: str = "#rows") -> list[str]:
    """Return what the column says in the rows that are shown; exact values where there are."""
    script = """([table, heading]) => {
        const head = [...document.querySelectorAll(`${table} thead th`)];
        const place = head.findIndex((th) => th.textContent.startsWith(heading));
        const rows = [...document.querySelectorAll(`${table} tbody tr`)];
        return rows.filter((row) => row.checkVisibility())
            .map((row) => row.cells[place].dataset.v ?? row.cells[place].textContent.trim());
    }"""
    return list(page.evaluate(script, [table, heading]))


def header(page: Any, name: str, table: str = "#rows") -> Any:
    return page.locator(f"{table} thead th").filter(has_text=name).first


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("repair", ["", "lstsq"], ids=["everything", "one repair"])
def test_the_page_is_never_wider_than_the_window(size, repair, open_page):
    page = open_page(size)
    page.select_option("select[data-field=repair]", repair)
    assert overflow(page) <= 0
    assert page.locator("#rows").evaluate("table => table.scrollWidth") > size[0] - 80


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_page_with_hardly_anything_opens_too(size, open_page, tmp_path):
    path = tmp_path / "tiny.html"
    path.write_text(html(tiny()), "utf-8")
    page = open_page(size, path)
    assert overflow(page) <= 0
    assert page.get_by_text("3 of 4 cells have not been run yet").is_visible()
    assert page.locator("#rows .verdict").inner_text().startswith("failed")
    assert not page.locator("#controls").is_visible()  # there is nothing to choose


def test_a_heading_sorts_numbers_as_numbers_up_and_down(open_page, findings):
    page = open_page()
    page.select_option("select[data-field=repair]", "")
    macs = [row.macs for s in findings.standings for row in s.rows if row.macs is not None]
    missing = sum(row.macs is None for s in findings.standings for row in s.rows)
    assert missing > 0
    assert sorted(macs) != [float(text) for text in sorted(map(str, macs))]  # it can fail

    for direction, expected in [
        ("ascending", sorted(macs)),
        ("descending", sorted(macs, reverse=True)),
    ]:
        header(page, "MACs").get_by_role("button").click()
        assert header(page, "MACs").get_attribute("aria-sort") == direction
        found = values(page, "MACs")
        assert [float(text) for text in found[: len(macs)]] == expected
        assert found[len(macs) :] == ["–"] * missing  # below, whichever way

    header(page, "Criterion").get_by_role("button").click()
    assert page.locator("#rows [aria-sort]").count() == 1
    assert values(page, "Criterion") == sorted(values(page, "Criterion"))


def test_sorting_works_from_the_keyboard(open_page):
    page = open_page()
    header(page, "Top-1").get_by_role("button").focus()
    page.keyboard.press("Enter")
    found = [float(text) for text in values(page, "Top-1") if text != "–"]
    assert found == sorted(found)
    assert header(page, "Top-1").get_attribute("aria-sort") == "ascending"


def test_the_glance_and_the_costs_sort_too(open_page):
    page = open_page()
    header(page, "Seconds", "#costs").get_by_role("button").click()
    found = [float(text) for text in values(page, "Seconds", "#costs")]
    assert found == sorted(found)

    page.locator(".glance:visible thead button").nth(1).click()
    cells = page.locator(".glance:visible tbody tr td:first-of-type").evaluate_all(
        "cells => cells.map(cell => cell.dataset.v).filter(v => v)"
    )
    assert [float(text) for text in cells] == sorted(map(float, cells))


def test_text_and_selects_narrow_the_rows(open_page, findings):
    page = open_page()
    page.select_option("select[data-field=repair]", "")
    total = sum(len(standing.rows) for standing in findings.standings)
    assert shown(page).count() == total
    assert page.locator("#shown").inner_text() == f"{total} of {total} rows"

    page.fill("#find", "VIT  lamp")
    assert set(values(page, "Criterion")) == {"lamp"}
    assert set(values(page, "Model")) == {"vit_micro"}
    assert page.locator("#shown").inner_text() == f"4 of {total} rows"

    page.fill("#find", "")
    page.select_option("select[data-column=verdict]", "failed")
    problems = sum(row.problem is not None for s in findings.standings for row in s.rows)
    assert shown(page).count() == problems > 0
    page.select_option("select[data-column=criterion]", "lamp")
    assert shown(page).count() == 0

    page.select_option("select[data-column=verdict]", "")
    assert shown(page).count() == len(findings.standings)


def test_a_choice_narrows_figures_tables_and_words(open_page):
    page = open_page()
    page.select_option("select[data-field=arch]", "vit_micro")
    page.select_option("select[data-field=ratio]", "0.7")
    page.select_option("select[data-field=repair]", "lstsq")

    assert page.locator("#macs figure:visible").count() == 1
    assert page.locator("#macs .way:visible h3").all_inner_texts() == ["Repair lstsq, no training"]
    assert page.locator(".glance:visible").count() == 1
    assert page.locator(".glance:visible thead th:visible").count() == 2
    assert page.locator(".verdicts > :visible").count() == 1
    assert set(values(page, "Repair")) == {"lstsq"}
    assert set(values(page, "Removed")) == {"0.7"}
    assert page.locator("#layers details:visible").count() == 1


def test_the_page_opens_with_one_repair_and_every_model(open_page):
    page = open_page()
    assert page.locator("select[data-field=repair]").input_value() == "none"
    assert page.locator("#macs figure:visible").count() == 2
    assert set(values(page, "Repair")) == {"none"}


def ground(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_the_reader_chooses(scheme, open_page):
    page = open_page(color_scheme=scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    name = page.locator("[data-series='1'] text").first
    drawn = "text => getComputedStyle(text).fill"
    before, ink = ground(page), name.evaluate(drawn)

    button = page.get_by_role("button", name=f"{other} theme")
    button.click()
    assert ground(page) != before
    assert name.evaluate(drawn) != ink  # figures as well
    page.reload()
    assert ground(page) != before  # the choice is remembered

    page.get_by_role("button", name=f"{scheme} theme").click()
    assert ground(page) == before


def test_pointing_out_a_criterion_fades_the_others(open_page):
    page = open_page(reduced_motion="reduce")
    opacity = "mark => getComputedStyle(mark).opacity"
    chip = page.locator("button.chip").filter(has_text="lamp")
    number = chip.get_attribute("data-series")
    chosen = page.locator(f".panels [data-series='{number}']").first
    rest = page.locator(f".panels [data-series]:not([data-series='{number}'])").first

    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert (chosen.evaluate(opacity), rest.evaluate(opacity)) == ("1", "0.1")
    chip.click()
    assert rest.evaluate(opacity) == "1"


def test_everything_is_there_without_javascript(open_page, findings):
    page = open_page(java_script_enabled=False)
    total = sum(len(standing.rows) for standing in findings.standings)
    assert shown(page).count() == total
    assert page.locator("#macs figure:visible").count() == 4
    assert page.locator(".glance:visible").count() == 2
    for name in ("#controls", ".filters", "#theme"):  # what cannot work is not offered
        assert not page.locator(name).is_visible()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_labels_of_curves_neither_overlap_nor_leave_their_figure(size, open_page):
    page = open_page(size)
    boxes = """figure => {
        const outside = figure.querySelector("svg").getBoundingClientRect();
        const all = [...figure.querySelectorAll("text")].map((t) => t.getBoundingClientRect());
        const hit = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 &&
            a.top + 0.2 * a.height < b.bottom - 0.2 * b.height &&
            b.top + 0.2 * b.height < a.bottom - 0.2 * a.height;
        return {
            out: all.filter((t) => t.left < outside.left - 1 || t.right > outside.right + 1
                || t.top < outside.top - 1 || t.bottom > outside.bottom + 1).length,
            hits: all.flatMap((a, i) => all.slice(i + 1).filter((b) => hit(a, b))).length,
        };
    }"""
    figures = page.locator("#macs figure:visible, #layers figure:visible")
    assert figures.count() > 2
    for figure in figures.all():
        assert figure.evaluate(boxes) == {"out": 0, "hits": 0}


def test_a_third_party_name_does_not_run(open_page, tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    path = tmp_path / "evil.html"
    path.write_text(html(sample(("vit_micro",), (evil,), (0.5,), ("none",), ("none",))), "utf-8")
    page = open_page(path=path)
    assert page.locator("img").count() == 0
    assert evil in page.locator("#rows").inner_text()
