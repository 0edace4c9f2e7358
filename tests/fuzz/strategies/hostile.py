"""Hostile words, numbers and paths."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
ESCAPES = ("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "\u202egnp.exe", "bell\x07")
WORDS = (
    "", " ", "-", ",", ",,,", "a,,b", "*", "[", "[!", "**/*", ":", "=", "magnitude:", ":p=1",
    "None", "true", "null", "{}", "[]", "%s%n", "{0}", "\\", "'", '"', "$HOME", "~", "`id`",
    "a\nb", "a\tb", "\r", "naïve", "名前", "🦊", "e\u0301", "\ufeff", "\udcff\udcfe",
    "a" * 300, "é" * 200, "x" * 5000, "prunekit", "--arch", "a b", "..", "../../..", "/",
    *ESCAPES,
)  # fmt: skip
NUMBERS = (
    "nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e400", "5e-324", "-0.0", "0", "-1", "1",
    "2", "0.5", "1.5", "1e3", "0x10", "1_000", "١٢", "1,5", "1e", "+", "", " 3 ", "0.999999999999",
    "18446744073709551616", "-9223372036854775809", "9" * 30, "9" * 5000,
)  # fmt: skip
# Where a large number would be a wish for a long run, and no mistake.
SMALL_NUMBERS = ("nan", "inf", "-inf", "-1", "0", "1.5", "1e3", "", "0x10", "9" * 5000)
PATHS = (
    "loop", "loop/x", "dangling", "file.txt", "file.txt/x", "full", "empty", "saved", "link",
    "saved/plan.json", "saved/", "./saved", "new", "deep/er/new", ".", "..", "",
    "a" * 300, "é" * 200, "/".join(["d" * 200] * 25), "/proc/self/mem", "/proc/none/x",
    "/dev/null", "/dev/full", "good.toml", "grid.toml", "latin.toml", "nested.toml", "types.toml",
    "nul.toml", "sparse.toml", "sparse.safetensors", "bad.safetensors", "bad.pth", "none.toml",
    "\udcff", "esc\x1b[31m", "~/x", "a\nb",
)  # fmt: skip


def mix(*shares: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """Return one of several strategies, each as often as its share says.

    `one_of` flattens what it is given, and takes nothing twice.
    """
    places = [place for place, (share, _) in enumerate(shares) for _ in range(share)]
    return st.sampled_from(places).flatmap(lambda place: shares[place][1])


def words() -> st.SearchStrategy[str]:
    """Return text that a shell can pass on: anything without NUL."""
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
    return mix((3, st.sampled_from(WORDS)), (1, text))


def numbers() -> st.SearchStrategy[str]:
    """Return numbers that are out of range, or none."""
    others = st.one_of(st.floats().map(repr), st.integers().map(str))
    return mix((2, st.sampled_from(NUMBERS)), (1, others))


def small_numbers() -> st.SearchStrategy[str]:
    """Return the same, but no large ones that could be meant."""
    return st.sampled_from(SMALL_NUMBERS)


def paths() -> st.SearchStrategy[str]:
    """Return paths that are links, loops, files, directories, too long, or nothing at all."""
    return st.sampled_from(PATHS)
