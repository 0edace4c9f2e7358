"""The documentation site builds, and has everything in it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from pages import DOCS, ROOT

import prunekit
from prunekit import testing


def built(root, out):
    """Build the site of a checkout, and return what the builder said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "docs/build.py", str(out)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = built(ROOT, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()
    return out


class Page(HTMLParser):
    """What a page of the site links to, and its anchors."""

    def __init__(self, file):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.update(filter(None, (found.get("id"), found.get("name"))))
        self.links += [found[key] for key in ("href", "src") if found.get(key)]


def test_every_page_is_in_the_site_and_in_the_navigation(site):
    def pages(entries):
        for entry in entries:
            for there in entry.values():
                yield from [there] if isinstance(there, str) else pages(there)

    config = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())
    listed = list(pages(config["project"]["nav"]))
    assert sorted(listed) == [page.name for page in DOCS]
    for name in listed:
        assert (site / Path(name).stem.replace("index", "") / "index.html").is_file()


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {file.resolve(): Page(file) for file in site.rglob("index.html")}
    broken = []
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):  # to another site
                continue
            path, _, anchor = unquote(link).partition("#")
            there = (file.parent / path).resolve() if path else file
            if there.is_dir():
                there /= "index.html"
            if not there.is_file() or (anchor and anchor not in pages[there].anchors):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert len(pages) > len(DOCS)  # the reports, too
    assert not broken


def test_no_page_loads_anything_from_elsewhere(site):
    for file in site.rglob("index.html"):
        text = file.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(https?:[^\"> ]+)", text
        )
        assert not loaded


def test_the_reference_has_every_public_name(site):
    anchors = Page(site / "reference" / "index.html").anchors
    names = [f"prunekit.{name}" for name in prunekit.__all__]
    names += [f"prunekit.testing.{name}" for name in testing.__all__]
    assert set(names) <= anchors


def test_the_reference_shows_the_keywords_of_prune(site):
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    shown = re.sub(r"<[^>]+>", "", text[text.index('id="prunekit.prune"') :])
    assert "granularity: str = " in shown[: shown.index("Make a physically smaller model")]


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[gone](gone.md)", "gone.md"),
        ("![gone](gone.png)", "gone.png"),
        ("[gone](../benchmarks/gone.md)", "../benchmarks/gone.md"),
        ("[gone](concepts.md#gone)", "anchor does not exist"),
    ],
)
def test_a_broken_link_is_an_error(link, said, tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for beside in ROOT.iterdir():  # docs/ links to some of it
        if beside.name not in ("docs", "site"):
            (tmp_path / beside.name).symlink_to(beside)
    page = tmp_path / "docs" / "index.md"
    page.write_text(f"{page.read_text()}\n{link}\n")

    done = built(tmp_path, tmp_path / "site")

    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "site").exists()
