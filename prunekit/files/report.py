"""Report: what a report.json says, as far as anything here reads it; more may be in it."""

from __future__ import annotations

from typing import Annotated, NotRequired

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import AfterValidator, JsonValue, with_config

# Before Python 3.12, pydantic cannot look into the TypedDict of typing.
from typing_extensions import TypedDict

Text = Annotated[str, MaxLen(10_000)]
Digest = Annotated[str, MinLen(64), MaxLen(64)]
Count = Annotated[int, Ge(0), Le(2**53)]
Positive = Annotated[int, Ge(1), Le(2**53)]
Amount = Annotated[float, Ge(0)]
Milliseconds = Annotated[float, Gt(0), Le(1e9)]
Seconds = Annotated[float, Ge(0), Le(1e10)]
Percent = Annotated[float, Ge(0), Le(100)]
Fraction = Annotated[float, Ge(-1e6), Le(1)]  # that is gone; negative if there is more than before
Options = dict[str, JsonValue]

OPEN = with_config({"extra": "allow"})  # keys of other versions stay, and are written again


@OPEN
class LatencyEntry(TypedDict):
    median: Milliseconds
    low: Milliseconds
    high: Milliseconds


@OPEN
class Costs(TypedDict):
    """What one model costs, and what it is worth; see `Stats`."""

    params: Positive
    macs: Positive
    size_bytes: Positive
    latency_ms: dict[str, LatencyEntry]
    memory_bytes: Count | None
    top1: Percent | None
    top5: Percent | None
    images: Count | None


@OPEN
class ParityEntry(TypedDict):
    difference: Amount
    scale: Amount
    tolerance: Amount
    noisy: bool
    in_float64: NotRequired[bool]  # not in reports of 0.1.0
    holds: bool


@OPEN
class MaskingEntry(TypedDict):
    zeros: Count
    same: Count


@OPEN
class Gain(TypedDict):
    before: Amount
    after: Amount


@OPEN
class TrainedEntry(TypedDict):
    """How a training went; see `Trained`."""

    epochs: Count
    best_epoch: Count
    val_top1_before: Percent
    val_top1: Percent
    images: Count
    validation: Count
    learnt_from: Annotated[list[Text], MinLen(1)]
    processes: Positive
    device: Text
    seconds: Seconds


@OPEN
class FinetuneEntry(TrainedEntry):
    recipe: Text
    settings: Options
    seed: int
    data: Text
    test_top1_before: Percent | None
    test_top1: Percent
    source: Text
    versions: dict[str, Text]


@OPEN
class SavingEntry(TypedDict):
    """Two models, timed side by side; see `Saving`."""

    removed: Fraction
    low: Fraction
    high: Fraction
    dense: LatencyEntry
    small: LatencyEntry


@OPEN
class ConditionsEntry(TypedDict):
    batch: Positive
    dtype: Text
    compiled: bool


@OPEN
class TimingEntry(TypedDict):
    """How near a model came to a latency; see `Timing`."""

    conditions: ConditionsEntry
    asked: Fraction
    predicted: Fraction
    saving: SavingEntry
    tries: Positive


@OPEN
class FootprintEntry(TypedDict):
    """How near a model came to a peak of memory; see `Footprint`."""

    asked: Fraction
    predicted: Fraction
    dense: Positive
    small: Positive


@OPEN
class SearchEntry(TypedDict):
    """How the shares of a budget were found; see `Search`."""

    trials: Positive
    scopes: dict[str, float]
    divergence: float
    base: Text
    weights: dict[str, float]
    images: Positive
    unseen: bool


@OPEN
class RoundEntry(TypedDict):
    asked: Fraction
    parity: ParityEntry | None
    repaired: dict[str, Gain]
    trained: TrainedEntry | None
    masking: NotRequired[MaskingEntry | None]  # which reports did not always have
    rebuilt: NotRequired[dict[str, Gain]]
    recalibrated: NotRequired[dict[str, Amount]]
    unrepaired: NotRequired[dict[str, Text]]
    timing: NotRequired[TimingEntry | None]
    search: NotRequired[SearchEntry | None]
    footprint: NotRequired[FootprintEntry | None]


@OPEN
class _AxisEntry(TypedDict):
    kind: Text
    size: Positive
    kept: Count


def _kept_of_size(axis: _AxisEntry) -> _AxisEntry:
    if axis["kept"] > axis["size"]:
        raise ValueError(f"keeps {axis['kept']} of {axis['size']}")
    return axis


AxisEntry = Annotated[_AxisEntry, AfterValidator(_kept_of_size)]


@OPEN
class LayerEntry(TypedDict):
    kind: Text
    weights: Positive
    nonzero: Count
    macs: Count
    implied_macs: Count


@OPEN
class SparsityEntry(TypedDict):
    """A masked model, counted; see `Sparsity`."""

    granularity: Text
    layers: dict[str, LayerEntry]
    params: Positive
    nonzero: Count
    nonzero_before: Positive
    macs: Positive
    implied_macs: Count
    thresholds: dict[str, float]
    weights: Count
    note: Text


@OPEN
class RecipeEntry(TypedDict):
    """Everything that determined the result."""

    arch: Text
    weights: Text
    adapter: Text
    criterion: Text
    options: Options
    granularity: NotRequired[Text]  # which reports did not always have
    scope: Text | None
    repair: Text
    repair_options: Options
    axes: list[Text]
    include: list[Text]
    exclude: list[Text]
    ratio: Fraction | None
    by: Text
    floor: float | None
    multiple: int | None
    steps: Positive
    schedule: Text | None
    finetune: Options | None
    data: Text | None
    calibration: Count | None
    seed: int
    device: Text
    threads: Positive
    versions: dict[str, Text]


@OPEN
class _Report(TypedDict):
    asked: Fraction
    got: Fraction
    before: Costs
    after: Costs
    part: NotRequired[Annotated[list[Costs], MinLen(2), MaxLen(2)]]  # if only a part was pruned
    parity: ParityEntry | None
    rounds: Annotated[list[RoundEntry], MinLen(1), MaxLen(100_000)]
    axes: dict[str, AxisEntry]
    sparsity: NotRequired[SparsityEntry | None]  # which reports did not always have
    seconds: dict[str, Seconds]
    recipe: RecipeEntry
    warnings: list[Text]
    finetune: NotRequired[FinetuneEntry | None]
    plan_sha256: NotRequired[Digest]  # of a report in an artifact, as the next two
    files: NotRequired[dict[str, Digest]]
    sha256: NotRequired[Digest]


def _agrees(report: _Report) -> _Report:
    """Refuse a report whose parts cannot be of one run: whoever lays it out relies on that."""
    before, after = report["before"], report["after"]
    for key in ("memory_bytes", "top1", "top5"):
        if before[key] is not None and after[key] is None:
            raise ValueError(f"{key} is given before and not after")
    if before["latency_ms"].keys() - after["latency_ms"].keys():
        raise ValueError("latency_ms lacks batch sizes after that it has before")
    recipe, rounds = report["recipe"], report["rounds"]
    if recipe["ratio"] is None and "granularity" not in recipe:
        raise ValueError("recipe has neither ratio nor granularity")
    if recipe["finetune"] and any(one["trained"] is None for one in rounds):
        raise ValueError("recipe trains, and a round is not trained")
    if report["parity"] is None and not rounds[-1].get("masking"):
        raise ValueError("there is neither parity nor masking")
    return report


Report = Annotated[_Report, AfterValidator(_agrees)]
