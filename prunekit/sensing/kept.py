"""Kept: what was measured so far, in a file, so that a run that was cut off goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files.sensitivity import NAME, read_sensitivity
from .bench import Effect
from .measure import Sensitivity


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
        found = read_sensitivity(self._place, "remove it to measure anew")
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
            "uncut": list(whole.uncut) if whole else [],
        }
        partial = self._place.with_name(f".{NAME}.{os.getpid()}")
        partial.write_text(json.dumps(said, indent=1))
        partial.replace(self._place)
