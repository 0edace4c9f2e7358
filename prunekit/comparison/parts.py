"""Parts: what a model is divided into: everything, the axes of a kind, those of a stage."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

STAGES = 12  # at most; deeper rows of blocks are joined


@dataclass(frozen=True)
class Part:
    """Some axes of a model; the fields are those of `Agreement`, and the names of the axes."""

    name: str
    sort: str
    axes: tuple[str, ...]


def divide(kinds: Mapping[str, str]) -> list[Part]:
    """Divide a model's axes: all of them, those of each kind, and those of each stage."""
    found = [Part("all", "all", tuple(kinds))]
    for sort, labels in (("kind", dict(kinds)), ("stage", stages(tuple(kinds)))):
        for label in sorted(set(labels.values()), key=natural):
            axes = tuple(axis for axis, own in labels.items() if own == label)
            found.append(Part(label, sort, axes))
    return found


def stages(axes: Sequence[str]) -> dict[str, str]:
    """Name the stage of each axis that is in one: all up to the first number in its name.

    Where there are no stages that is the block; of more than `STAGES` blocks, neighbours are
    joined.

    Example:
        >>> stages(["stages.1.blocks.0.mlp", "stages.1.width", "width"])
        {'stages.1.blocks.0.mlp': 'stages.1', 'stages.1.width': 'stages.1'}
        >>> stages([f"blocks.{n}.mlp" for n in range(24)])["blocks.5.mlp"]
        'blocks.4-5'
    """
    places = {}
    for axis in axes:
        if match := re.match(r"(.*?)(?:^|\.)(\d+)(?:\.|$)", axis):
            places[axis] = (match[1], int(match[2]))
    numbers = defaultdict(set)
    for stem, number in places.values():
        numbers[stem].add(number)
    titles = {
        (stem, number): title
        for stem, found in numbers.items()
        for number, title in _joined(stem, sorted(found))
    }
    return {axis: titles[place] for axis, place in places.items()}


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key to sort by that puts blocks.2 before blocks.10."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"[.-]", name)]


def _joined(stem: str, numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Name each number's stage."""
    step = -(-len(numbers) // STAGES)
    for start in range(0, len(numbers), step):
        run = numbers[start : start + step]
        title = f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}"
        for number in run:
            yield number, f"{stem}.{title}".removeprefix(".")
