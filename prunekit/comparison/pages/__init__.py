"""Findings -> pages: HTML, Markdown, CSV, JSON and one figure, all of the same numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

from ..findings import Findings
from .figures import overview
from .html import html
from .tables import csv_text, markdown
from .words import settled

__all__ = ["csv_text", "html", "markdown", "overview", "write_pages"]


def write_pages(findings: Findings, directory: Path) -> list[Path]:
    """Write `report.html`, `.md`, `.csv` and `.json`, and `figure.svg`.

    The same findings give the same bytes.

    Args:
        findings: What to tell.
        directory: Where; made if need be.

    Returns:
        The files, each of which is whole at any moment: the old one or the new one.
    """
    plain = json.dumps(findings.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    told = settled(findings)
    pages = {
        "report.html": html(told),
        "report.md": markdown(told),
        "report.csv": csv_text(findings),
        "report.json": plain + "\n",
        "figure.svg": overview(told),
    }
    directory.mkdir(parents=True, exist_ok=True)
    return [_replace(directory / name, text) for name, text in pages.items()]


def _replace(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}-{uuid4().hex}")  # another process may write it too
    partial.write_text(text, "utf-8", newline="")
    os.replace(partial, path)
    return path
