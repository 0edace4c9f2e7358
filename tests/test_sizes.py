"""Functions tell one story, and files hold one idea: neither grows too long."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("prunekit", "benchmarks") for path in (ROOT / room).rglob("*.py"))
LONGEST_FUNCTION, LONGEST_FILE = 50, 400  # lines
BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """Yield every function and its lines of code: signature too, but no docstring or comment."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in BLANK:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if ast.get_docstring(node) is not None:
            words = node.body[0]
            lines -= set(range(words.lineno, (words.end_lineno or words.lineno) + 1))
        yield node.name, len(lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_are_short(path):
    source = path.read_text("utf-8")
    assert [found for found in lengths(source) if found[1] > LONGEST_FUNCTION] == []
    assert source.count("\n") <= LONGEST_FILE


def test_lines_are_counted_without_words():
    source = 'def f(\n    a,\n):\n    """One.\n\n    Two.\n    """\n    # three\n\n    return a\n'
    assert list(lengths(source)) == [("f", 4)]
