"""Kept: what was measured so far, in a file, so that a run that was cut off goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import JsonValue

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from ..errors import ArtifactError
from ..files.reading import read_json
from .measure import Effect, Sensitivity

NAME = "sensitivity.json"


class EffectEntry(TypedDict):
    """See `Effect`."""

    axis: str
    kind: str
    size: Annotated[int, Ge(1)]
    kept: Annotated[int, Ge(0)]
    asked: Annotated[float, Ge(0), Le(1)]
    params: float
    macs: float
    divergence: float
    agreement: Annotated[float, Ge(0), Le(1)]
    loss: float | None
    top1: float | None


class SensitivityFile(TypedDict):
    """What a sensitivity.json says.

    Attributes:
        asked: The words that were asked for.
        effects: What is known so far.
        recipe: See `Sensitivity`; None as long as not all is known.
        images: Likewise.
    """

    asked: dict[str, JsonValue]
    effects: list[EffectEntry]
    recipe: dict[str, JsonValue] | None
    images: int | None


class Kept:
    """The effects in a directory.

    Attributes:
        effects: What is known.
    """

    def __init__(self, directory: Path, asked: Mapping[str, Any]):
        """Read what is there, if anything.

        Raises:
            ArtifactError: It is of something else, or damaged.
        """
        self._place, self._asked = directory / NAME, json.loads(json.dumps(asked))
        self.effects: list[Effect] = []
        if not self._place.exists():
            return
        found = read_json(self._place, SensitivityFile, advice="remove it to measure anew")
        if found["asked"] != self._asked:
            words = ", ".join(
                word for word in self._asked if found["asked"].get(word) != self._asked[word]
            )
            raise ArtifactError(
                f"{self._place} is of another run (other {words or 'words'}); name another "
                "directory, or remove it."
            )
        self.effects = [Effect(**entry) for entry in found["effects"]]

    def add(self, effect: Effect) -> None:
        """Write down one more effect."""
        if effect not in self.effects:
            self.effects.append(effect)
            self._write(self.effects, None)

    def finish(self, found: Sensitivity) -> None:
        """Write down all there is to know."""
        self._write(found.effects, found)

    def _write(self, effects: Sequence[Effect], whole: Sensitivity | None) -> None:
        self._place.parent.mkdir(parents=True, exist_ok=True)
        said = {
            "asked": self._asked,
            "effects": [asdict(effect) for effect in effects],
            "recipe": dict(whole.recipe) if whole else None,
            "images": whole.images if whole else None,
        }
        partial = self._place.with_name(f".{NAME}.{os.getpid()}")
        partial.write_text(json.dumps(said, indent=1))
        partial.replace(self._place)
