"""PlanFile: what a plan.json says."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, NotRequired

from annotated_types import Ge, Le, MaxLen
from pydantic import JsonValue, StringConstraints, with_config

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

from .card import Arguments, BuildCard
from .report import OPEN, Digest, Fraction, Text

MOST_SLICES = 2**24  # of an axis; a hundred times the widest layer there is
CLOSED = with_config({"extra": "forbid"})

# A name that timm's registry may have, and no address: timm would fetch "hf-hub:owner/name".
TimmName = Annotated[str, StringConstraints(pattern=r"^\w+(\.\w+)?$", max_length=200)]
Slice = Annotated[int, Ge(-MOST_SLICES), Le(MOST_SLICES)]  # and see `impossible`


@CLOSED
class AxisPlan(TypedDict):
    size: Annotated[int, Ge(1), Le(MOST_SLICES)]
    kept: list[Slice]


@OPEN
class PlanData(TypedDict):
    """See `Plan`."""

    by: Literal["params", "macs", "slices", "latency", "memory"]
    asked: Fraction
    got: Fraction
    axes: Annotated[dict[str, AxisPlan], MaxLen(100_000)]


@CLOSED
class ArchitectureData(TypedDict):
    """See `Architecture`."""

    name: Text
    timm: TimmName | None
    args: Arguments
    card: BuildCard | None


@OPEN
class Version(TypedDict):
    """What tells which prunekit can read a plan."""

    format: int
    versions: NotRequired[JsonValue]


@OPEN
class PlanFile(TypedDict):
    format: int
    architecture: ArchitectureData | None
    adapter: Text
    at: NotRequired[Text]
    plain: NotRequired[Annotated[list[Text], MaxLen(100_000)]]
    plan: PlanData
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    versions: dict[str, Text]
    weights_sha256: Digest
    masks_sha256: NotRequired[Digest]


def impossible(plan: PlanData) -> str | None:
    """Return the first axis that keeps what it cannot: its slices are ascending and its own."""
    for name, axis in plan["axes"].items():
        kept = axis["kept"]
        ascending = all(a < b for a, b in itertools.pairwise(kept))
        none_left = not kept and axis["size"] > 1  # of a branch, which is one slice, none may be
        if none_left or not ascending or (kept and (kept[0] < 0 or kept[-1] >= axis["size"])):
            return name
    return None
