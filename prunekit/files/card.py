"""Card: what tells how a model of the zoo is built, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import AfterValidator, JsonValue, StringConstraints

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from .report import OPEN, Options, Percent, Positive, Text

MOST_PIXELS = 2**25  # in all channels of an image
LARGEST_ARGUMENT = 2**20

ClassName = Annotated[str, StringConstraints(pattern=r"^timm\.models(\.\w+)+$", max_length=200)]
Sides = Annotated[list[Annotated[int, Ge(1), Le(2**15)]], MinLen(3), MaxLen(3)]
PerChannel = Annotated[list[float], MinLen(1), MaxLen(1024)]


def _fits_memory(size: list[int]) -> list[int]:
    if math.prod(size) > MOST_PIXELS:
        raise ValueError(f"{size} is more than {MOST_PIXELS:,} pixels")
    return size


def _modest(arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse numbers that no architecture has, wherever they are in the arguments."""
    for name, value in arguments.items():
        for number in _numbers(value):
            if abs(number) > LARGEST_ARGUMENT:
                raise ValueError(f"{name} is {number}, which no architecture has")
    return arguments


def _numbers(value: JsonValue) -> Iterable[float]:
    if isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _numbers(entry)
    elif isinstance(value, int | float):
        yield value


InputSize = Annotated[Sides, AfterValidator(_fits_memory)]
Arguments = Annotated[Options, MaxLen(64), AfterValidator(_modest)]

BuildCard = TypedDict(
    "BuildCard",
    {"class": ClassName, "input_size": InputSize, "mean": PerChannel, "std": PerChannel},
)
OPEN(BuildCard)


@OPEN
class Card(BuildCard):
    name: Text
    args: Arguments
    data: Text
    recipe: Options
    seed: int
    params: Positive
    test_top1: Percent
    versions: dict[str, Text]
