"""Ranks over models: what is claimed of criteria must hold on models, not on images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_findings import sample, tiny

from prunekit.comparison.pages.html import html
from prunekit.comparison.pages.tables import markdown
from prunekit.comparison.ranking import critical_difference, rank, rankings

NAMES = ("best", "middle", "worst")


def ranked(lost):
    return rank(NAMES, lost, "params", "lstsq", "none", (0.5,))


@pytest.mark.parametrize(("models", "rows", "expected"), [(14, 4, 1.25), (10, 5, 1.93)])
def test_the_critical_difference_is_that_of_demsar_s_tables(models, rows, expected):
    assert critical_difference(models, rows) == pytest.approx(expected, abs=0.005)


def test_what_is_ahead_on_every_model_is_told_apart_from_the_last():
    found = ranked({f"model{n}": [[0.1 * n, 0.2 * n + 0.1, 3.0 * n + 1]] for n in range(10)})
    assert [row.name for row in found.rows] == list(NAMES)
    assert [row.mean for row in found.rows] == [1, 2, 3]
    assert [(row.low, row.high) for row in found.rows] == [(1, 1), (2, 2), (3, 3)]
    assert [row.behind for row in found.rows] == [False, False, True]
    assert found.p < 0.001


def test_chance_tells_nothing_apart():
    noise = np.random.default_rng(1)
    found = ranked({f"model{n}": [noise.random(3).tolist()] for n in range(8)})
    assert found.p > 0.05
    assert not any(row.behind for row in found.rows)
    assert all(row.low < row.mean < row.high for row in found.rows)


def test_rows_that_are_all_the_same_have_no_order():
    found = ranked({f"model{n}": [[1.0, 1.0, 1.0]] for n in range(4)})
    assert (found.p, [row.mean for row in found.rows]) == (1.0, [2, 2, 2])


def test_a_model_counts_once_however_many_ratios_it_was_pruned_at():
    often = [[0.0, 1.0, 2.0]] * 50
    found = ranked({"a": often, "b": [[2.0, 1.0, 0.0]], "c": [[2.0, 1.0, 0.0]]})
    assert {row.name: row.mean for row in found.rows} == pytest.approx(
        {"best": 7 / 3, "middle": 2, "worst": 5 / 3}
    )


def test_all_ratios_of_a_model_count():
    same = [[0.0, 1.0, 2.0]]
    found = ranked({"a": [[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0]], "b": same, "c": same})
    means = {row.name: row.mean for row in found.rows}
    assert means == pytest.approx({"best": 11 / 9, "middle": 19 / 9, "worst": 8 / 3})


def test_a_comparison_is_ranked_over_its_models_way_by_way():
    findings = sample()
    found = rankings(findings.standings)
    assert [(one.repair, one.finetune) for one in found] == [
        (repair, recipe) for repair in ("none", "lstsq") for recipe in ("none", "quick")
    ]
    assert all(one.ratios == (0.3, 0.5, 0.7) for one in found)
    assert all(set(one.models) == {"swin_micro", "vit_micro", "convnext_micro"} for one in found)
    # A row that lacks a rank somewhere is left out, and so are too few models.
    without = [
        replace(s, rows=tuple(replace(r, rank=None) if r.name == "flap" else r for r in s.rows))
        if s.column.arch == "vit_micro"
        else s
        for s in findings.standings
    ]
    assert all("flap" not in [row.name for row in one.rows] for one in rankings(without))
    assert rankings(sample(archs=("swin_micro", "vit_micro")).standings) == ()
    assert rankings(tiny().standings) == ()


def test_the_reports_show_it():
    findings = sample()
    (first, *_) = findings.rankings
    text, page = markdown(findings), html(findings)
    assert "## Rank over models" in text
    assert f"3 models, p = {first.p:.2g} (Friedman)" in text
    assert 'id="over"' in page
    assert page.count("not told apart from the best") == text.count("not told apart from the best")
    assert "Rank over models" not in markdown(tiny()) + html(tiny())
