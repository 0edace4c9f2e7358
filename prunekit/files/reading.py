"""The one reader of JSON: of bounded size and depth, with finite numbers, and of a known type."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Hashable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from ..errors import ArtifactError, PruneError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

LARGEST = 32 * 2**20  # bytes; the plan of a model with ten thousand blocks has fewer
LARGEST_WRITTEN = 2**20  # bytes of a file that a person writes
DEEPEST = 32  # objects and lists inside each other
SHOWN = 60  # characters of a value that an error shows
# What a terminal would act on rather than print, but for tabs and line ends; and halves of
# characters, which cannot be printed at all.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def read_json(
    path: Path,
    of: type[T],
    *,
    error: type[PruneError] = ArtifactError,
    advice: str = "save it again",
    limit: int = LARGEST,
) -> T:
    """Read a JSON file.

    Args:
        path: The file.
        of: What is expected in it: any type that pydantic knows.
        error: Raised if something else is.
        advice: What to do then, for the end of the sentence.
        limit: The most bytes that are read.

    Raises:
        PruneError: `error`: the file is missing or too large, or says something else.
    """
    try:
        content = read_bytes(path, limit)
    except (OSError, ValueError) as wrong:
        raise error(f"{path} cannot be read ({reason(wrong)}); {advice}.") from wrong
    return parse(content, of, str(path), error=error, advice=advice)


def read_toml(path: Path, what: str, error: type[PruneError]) -> dict[str, Any]:
    """Read a TOML file that a person wrote.

    Args:
        path: The file.
        what: What it should be, such as "recipe".
        error: Raised if it is not.

    Raises:
        PruneError: `error`: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_bytes(path, LARGEST_WRITTEN).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as wrong:
        raise error(
            f"{str(path)!r} is not a readable {what} ({reason(wrong)}); mend it."
        ) from wrong


def read_bytes(path: Path, limit: int) -> bytes:
    """Return all of a plain file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger than the limit, or no plain file.
    """
    # Opening a pipe would otherwise wait for someone to write to it.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        check_plain(os.fstat(file.fileno()), limit)
        return file.read(limit + 1)


def check_plain(found: os.stat_result, limit: int) -> None:
    """Make sure that what was opened is a file that is not too large.

    Raises:
        ValueError: It is not.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a plain file")
    if found.st_size > limit:
        raise ValueError(f"{found.st_size:,} bytes, where at most {limit:,} are read")


def parse(
    content: bytes,
    of: type[T],
    where: str,
    *,
    error: type[PruneError] = ArtifactError,
    advice: str = "save it again",
) -> T:
    """Turn JSON into a value of a known type.

    Args:
        content: The text, in UTF-8.
        of: What is expected in it.
        where: What to call it in a sentence.
        error: Raised if something else is there.
        advice: What to do then.

    Raises:
        PruneError: `error`, naming the first place that is wrong.
    """
    from pydantic import ValidationError

    try:
        check_sound(_plain(content.decode("utf-8")))
        # Parsed once more, since only from JSON itself does pydantic take a list for a tuple.
        return cast(T, _adapter(cast(Hashable, of)).validate_json(content, strict=True))
    except ValidationError as wrong:
        raise error(f"{where} is not readable {_first(wrong)}; {advice}.") from wrong
    except RecursionError as wrong:
        raise error(f"{where} is not readable (it is nested too deeply); {advice}.") from wrong
    except ValueError as wrong:
        raise error(f"{where} is not readable ({reason(wrong)}); {advice}.") from wrong


def typed(value: object, of: type[T], where: str) -> T:
    """Do what `parse` does with plain data that was read already.

    Raises:
        ArtifactError: It is something else than expected.
    """
    try:
        content = json.dumps(value)
    except (TypeError, ValueError) as wrong:
        raise ArtifactError(f"{where} is not readable ({wrong}); save it again.") from wrong
    return parse(content.encode(), of, where)


def check_sound(value: object) -> None:
    """Refuse what no file of ours holds, wherever it is in plain data.

    Raises:
        ValueError: There are characters that a terminal would act on, numbers that are not
            finite, or too many levels.
    """
    _walk(value, (), DEEPEST)


def cleaned(value: Any) -> Any:
    r"""Return plain data with everything spelled out that a terminal would act on.

    What is written goes through this, so that it can be read again.

    Example:
        >>> cleaned({"data": "a\x1b[2Jb"})
        {'data': 'a\\x1b[2Jb'}
    """
    if isinstance(value, str):
        return UNPRINTABLE.sub(lambda found: _escaped(found[0]), value)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(entry) for entry in value]
    return value


def shown(value: object) -> str:
    """Return a value as an error may quote it: short, and harmless to a terminal."""
    return _shortened(repr(value))


def reason(error: Exception) -> str:
    """Return why a file could not be read or written, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "no text in UTF-8"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@cache
def _adapter(of: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(of)


def _plain(text: str) -> object:
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_no_number,
        parse_float=_finite,
        parse_int=_short,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that stands twice: readers would differ in which of the two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{shown(twice)} stands twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(shown(text)[1:-1])


def _short(text: str) -> int:
    if len(text) > 20:  # no count of ours needs more, and Python takes long over many
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _walk(value: object, place: tuple[object, ...], levels: int) -> None:
    if isinstance(value, str):
        found = UNPRINTABLE.search(value)
        if found:
            raise ValueError(f"{_at(place)} has the control character {shown(found[0])}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_at(place)} is {value}, which is not a finite number")
    elif isinstance(value, dict | list | tuple):
        if levels == 0:
            raise ValueError("it is nested too deeply")
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                _walk(key, place, levels)
            if not isinstance(entry, int):
                _walk(entry, (*place, key), levels - 1)


def _at(place: tuple[object, ...]) -> str:
    return _shortened(".".join(map(str, place)) or "it")


def _first(wrong: ValidationError) -> str:
    """Say where the first thing is that was not expected, and what it is."""
    found = wrong.errors(include_url=False)[0]
    what, given = found["msg"].removeprefix("Value error, "), found["input"]
    told = "" if isinstance(given, dict | list) else f", not {shown(given)}"
    return f"({_at(found['loc'])}: {what[0].lower()}{what[1:]}{told})"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
