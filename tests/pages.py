"""The blocks of a documentation page, and how its Python is run."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prunekit.adapters import ADAPTERS
from prunekit.criteria import CRITERIA
from prunekit.repairs import REPAIRS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^( *)```([\w-]+)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)

Names = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: As written behind the fence.
        text: Its lines.
        line: The number of the first of them on the page.
        adjoins: Whether nothing but empty lines is between it and the block before.
    """

    language: str
    text: str
    line: int
    adjoins: bool


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the blocks of a page, of one language or of all, in order."""
    text, found, end = page.read_text(encoding="utf-8"), [], 0
    for match in FENCE.finditer(text):
        adjoins = bool(found) and not text[end : match.start()].strip()
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(match[2], textwrap.dedent(match[3]), line, adjoins))
        end = match.end()
    return [block for block in found if language in (None, block.language)]


def run(page: Path, folder: Path, after: Callable[[Names], object] = lambda names: None) -> Names:
    """Run the Python of a page in one namespace, and compare what it prints with what is shown.

    Args:
        page: Where it is written.
        folder: Where it runs.
        after: Called with the namespace after every block.

    Returns:
        What the page's Python has defined.
    """
    names: Names = {"__name__": page.stem}
    torch.manual_seed(0)
    printed = None  # by the block before, if that is Python
    with chdir(folder):
        for block in blocks(page):
            if block.language == "python":
                padding = "\n" * (block.line - 1)  # so that a traceback has the page's lines
                with redirect_stdout(io.StringIO()) as out:
                    exec(compile(padding + block.text, str(page), "exec"), names)
                printed = out.getvalue()
                after(names)
            else:
                if block.language == "text" and block.adjoins and printed is not None:
                    assert printed == block.text, (
                        f"{page.name}, line {block.line}: it prints\n{printed}"
                    )
                printed = None
    return names


@contextmanager
def own_plugins() -> Iterator[None]:
    """Forget all plug-ins that are registered meanwhile."""
    registries = (ADAPTERS, CRITERIA, REPAIRS)
    before = [dict(registry._loaded) for registry in registries]
    try:
        yield
    finally:
        for registry, loaded in zip(registries, before, strict=True):
            registry._loaded.clear()
            registry._loaded.update(loaded)
