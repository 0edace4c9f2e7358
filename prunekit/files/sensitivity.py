"""What a sensitivity.json says: what cutting each axis alone costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NotRequired

from annotated_types import Ge, Le
from pydantic import JsonValue

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from .reading import read_json

NAME = "sensitivity.json"


class EffectEntry(TypedDict):
    """See `sensing.measure.Effect`."""

    axis: str
    kind: str
    size: Annotated[int, Ge(1)]
    kept: Annotated[int, Ge(0)]
    asked: Annotated[float, Ge(0), Le(1)]
    params: float
    macs: float
    latency: NotRequired[float | None]
    divergence: Annotated[float, Ge(-1e-6)]  # of models that agree, rounding may be below 0
    agreement: Annotated[float, Ge(0), Le(1)]
    loss: float | None
    top1: float | None


class SensitivityFile(TypedDict):
    """What was measured.

    Attributes:
        asked: The words that were asked for.
        effects: What is known so far.
        recipe: See `sensing.measure.Sensitivity`; None as long as not all is known.
        images: Likewise.
        uncut: Likewise.
    """

    asked: dict[str, JsonValue]
    effects: list[EffectEntry]
    recipe: dict[str, JsonValue] | None
    images: int | None
    uncut: NotRequired[list[str]]


def read_sensitivity(place: Path, advice: str) -> SensitivityFile:
    """Read a sensitivity.json.

    Raises:
        ArtifactError: It cannot be read, or says something else.
    """
    return read_json(place, SensitivityFile, advice=advice)
