"""Comparisons of which some cells, or all, ask for what cannot be had."""

import pytest

from prunekit.cli import main

OUT_OF_REACH = "A ratio of 0.98 by params is out of reach"


def compare(*more):
    grid = ("--arch", "vit_micro", "--criterion", "magnitude,lamp", "--ratio", "0.98")
    return main(["compare", *grid, *map(str, more)])


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


def test_a_comparison_without_any_figures_is_an_error_that_says_why(kept, capsys):
    assert compare("--out", kept) == 1

    out, err = capsys.readouterr()
    assert "nothing can be ranked" in out
    assert f"prunekit: no figures in 2 of 2 rows: {OUT_OF_REACH}" in err
    assert err.count(OUT_OF_REACH) == 1  # though two cells have it
    assert main(["compare", "--report-only", str(kept)]) == 1


def test_its_report_leaves_out_what_nothing_is_known_of(kept):
    compare("--out", kept)

    text = (kept / "report.md").read_text()
    assert OUT_OF_REACH in text
    assert "None" not in text
    assert not [line for line in text.splitlines() if line.endswith(": ")]
    page = (kept / "report.html").read_text()
    assert "<dd></dd>" not in page
    assert "had nothing been shared" not in page


def test_a_dry_run_says_what_would_have_no_figures(capsys):
    assert compare("--dry-run") == 0

    assert f"that cell would have no figures: {OUT_OF_REACH}" in capsys.readouterr().err
