"""Findings: every number of a comparison, as plain data; all reports are made from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """A setting that criteria are compared in: the same for all of them.

    Attributes:
        arch, axes, by, ratio, repair, finetune: As in `Cell`.
    """

    arch: str
    axes: tuple[str, ...]
    by: str
    ratio: float
    repair: str
    finetune: str


@dataclass(frozen=True)
class Row:
    """One criterion, in one scope, in one column; most figures are means over its seeds.

    Attributes:
        criterion, scope: As in `Cell`.
        seeds: Which seeds it was run with; one of them if the seed makes no difference.
        seeded: Whether the seed makes a difference.
        problem: Why there are no figures; then all others are None.
        got: The fraction of the budget that was removed.
        missed: Whether a seed is over half a point from what was asked, or three of
            latency or memory; then it has no rank.
        params, macs: What is left.
        speedup: Dense latency over latency, timed side by side, by batch size; None if some were
            not timed.
        latency_ms: Median milliseconds of a forward pass, by batch size; likewise.
        latency_spread: Quartiles of the latency over the dense model's median, by batch size; None
            if some were timed without.
        top1: Percentage of test images.
        low, high: 95 % bootstrap confidence interval of that, over test images.
        worst, best: Of the single seeds' top-1.
        deviation: Standard deviation of the seeds' top-1; None for one seed.
        lost: Points of top-1 below the dense model.
        rank: 1 for the highest top-1.
        leads: Whether it is first or tied with the first.
        name: As in `Pair`.
        residual: What the seed furthest from the budget got, less what was asked.
    """

    criterion: str
    scope: str
    seeds: tuple[int, ...]
    seeded: bool
    problem: str | None = None
    got: float | None = None
    missed: bool = False
    params: float | None = None
    macs: float | None = None
    speedup: Mapping[str, float] | None = None
    latency_ms: Mapping[str, float] | None = None
    latency_spread: Mapping[str, tuple[float, float]] | None = None
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    best: float | None = None
    deviation: float | None = None
    lost: float | None = None
    rank: int | None = None
    leads: bool = False
    name: str = ""
    residual: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two rows of one column, compared on the same test images.

    Attributes:
        first, second: The rows, as "criterion" or, in several scopes, "criterion, scope kind".
        difference: Points of top-1 of the first over the second.
        p: Of McNemar's exact test; of several seeds twice the median, see `statistics`.
        adjusted: By Holm's method, for all pairs of the column.
        verdict: `better`, `worse` or `tie`, of the first.
    """

    first: str
    second: str
    difference: float
    p: float
    adjusted: float
    verdict: str


@dataclass(frozen=True)
class Standing:
    """The ranking in one column.

    Attributes:
        column: Which.
        rows: Ranked ones first, best first; then those that missed, then those with problems.
        pairs: All pairs of ranked rows.
        sentence: Who leads, who is tied, and where the random control is, in words.
    """

    column: Column
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    sentence: str


@dataclass(frozen=True)
class Agreement:
    """How far criteria agree, in one part of one model.

    Attributes:
        arch, axes: As in `Cell`.
        part: What part: "all", a kind such as "mlp", or a stage such as "layers.0".
        sort: `all`, `kind` or `stage`.
        slices: How many slices that part has.
        criteria: Names of rows and columns of the matrices, as in `Pair`.
        correlation: Spearman's rank correlation of their scores within every axis, averaged over
            axes by their number of slices; None where every score of one is the same.
        overlap: By ratio ("0.5", or "0.5 of macs" where several things are counted), Jaccard index
            of what they keep; None where one was not run at that ratio.
    """

    arch: str
    axes: tuple[str, ...]
    part: str
    sort: str
    slices: int
    criteria: tuple[str, ...]
    correlation: tuple[tuple[float | None, ...], ...]
    overlap: Mapping[str, tuple[tuple[float | None, ...], ...]]


@dataclass(frozen=True)
class Kept:
    """What fraction of its slices one criterion keeps of each axis.

    Attributes:
        arch, axes, by, ratio: As in `Cell`.
        criterion: As in `Pair`.
        fractions: Axis name to the kept fraction, the mean over seeds.
        kinds: Axis name to its kind.
    """

    arch: str
    axes: tuple[str, ...]
    by: str
    ratio: float
    criterion: str
    fractions: Mapping[str, float]
    kinds: Mapping[str, str]


@dataclass(frozen=True)
class Met:
    """How near one run came to the latency that was asked for.

    Attributes:
        column: Of the run.
        criterion: As in `Pair`.
        seed: Its seed.
        batch: Images in a forward pass.
        predicted: The fraction of the dense model's time that its plan removes, by the times of
            the modules.
        measured: What the model that was built removed, timed beside the dense one.
        low, high: Quartiles of that over pairs of passes.
        miss: How far the time is from what was asked for, as a fraction of that.
    """

    column: Column
    criterion: str
    seed: int
    batch: int
    predicted: float
    measured: float
    low: float
    high: float
    miss: float


@dataclass(frozen=True)
class RankedRow:
    """One row of a ranking over models.

    Attributes:
        name: As in `Pair`.
        mean: Its rank, averaged over the ratios of each model, and then over models; 1 is best.
        low, high: 95 % bootstrap confidence interval of that, over models.
        behind: Whether it is told apart from the best: by the tests of Friedman and Nemenyi at 5 %.
    """

    name: str
    mean: float
    low: float
    high: float
    behind: bool


@dataclass(frozen=True)
class Ranking:
    """Who is ahead over models, in settings that differ in model and ratio only.

    Attributes:
        by, repair, finetune: As in `Cell`.
        ratios: All of the settings.
        models: All that were compared on.
        p: Of Friedman's test: that all rows are as good.
        critical: By how much mean ranks must differ for Nemenyi's test.
        rows: Best first; those that have a rank in every setting.
    """

    by: str
    repair: str
    finetune: str
    ratios: tuple[float, ...]
    models: tuple[str, ...]
    p: float
    critical: float
    rows: tuple[RankedRow, ...]


@dataclass(frozen=True)
class Cut:
    """What became of a model of which one axis was cut alone; see `prunekit.sensitivity`.

    Attributes:
        axis: Its name.
        gone: Fraction of its slices that left.
        divergence: From the dense model's predictions, in nats.
        agreement: Fraction of the images on which both say the same.
        params: Fraction of the whole model's parameters that left.
    """

    axis: str
    gone: float
    divergence: float
    agreement: float
    params: float


@dataclass(frozen=True)
class Sensed:
    """The sensitivity of one model, which lies beside a comparison.

    Attributes:
        arch, criterion, repair: As in `Cell`.
        data: Name of the data set.
        images: How many of its training images were looked at.
        cuts: Of every axis at every ratio.
    """

    arch: str
    criterion: str
    repair: str
    data: str
    images: int
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Scoring:
    """What one criterion's scores cost on one architecture; means over cells that scored.

    Attributes:
        arch, criterion: As in `Cell`.
        seconds, images, peak_bytes: As in `Cost`.
    """

    arch: str
    criterion: str
    seconds: float
    images: int
    peak_bytes: int


@dataclass(frozen=True)
class Dense:
    """An unpruned model.

    Attributes:
        arch: As in `Cell`.
        params, macs, top1: As in `Row`.
        low, high: 95 % bootstrap confidence interval of `top1`.
        latency_ms: Median over all that were timed beside it, by batch size; empty if none were.
        images: Number of test images.
        data: Name of the data set.
    """

    arch: str
    params: int
    macs: int
    top1: float
    low: float
    high: float
    latency_ms: Mapping[str, float]
    images: int
    data: str


@dataclass(frozen=True)
class Origin:
    """What the figures travel with.

    Attributes:
        command: The command that made them.
        made: When the report was written, ISO 8601, UTC.
        seeds: All that were asked for.
        calibration: Images that criteria and repairs may see.
        versions: Package to version.
        devices: All devices that cells ran on, with the number of threads.
        timed_on: The one that models were timed on.
        cells: How many the grid has.
        missing: How many of them have not been run.
        seconds: How long the cells took, together.
        alone: How long they would have taken with nothing shared, together.
    """

    command: str
    made: str
    seeds: tuple[int, ...]
    calibration: int
    versions: Mapping[str, str]
    devices: tuple[str, ...]
    timed_on: str
    cells: int
    missing: int
    seconds: float
    alone: float


@dataclass(frozen=True)
class Findings:
    """A whole comparison.

    Attributes:
        answer: What it says, in two sentences.
        origin: Where the figures are from.
        dense: The unpruned models.
        standings: One per column.
        agreements: Between criteria, by part of the model.
        kept: Per criterion and budget, layer by layer.
        scoring: What criteria cost.
        met: Of every run with a budget of latency, how near it came.
        sensed: Sensitivities that lie beside the comparison.
        rankings: Who is ahead over models, where there are three or more.
    """

    answer: str
    origin: Origin
    dense: tuple[Dense, ...]
    standings: tuple[Standing, ...]
    agreements: tuple[Agreement, ...]
    kept: tuple[Kept, ...]
    scoring: tuple[Scoring, ...]
    met: tuple[Met, ...] = ()
    sensed: tuple[Sensed, ...] = ()
    rankings: tuple[Ranking, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return asdict(self)
