"""Agreement: how alike criteria rank slices, what they keep in common, and what each keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from .cell import NONE, Record
from .findings import Agreement, Kept
from .naming import Runs, by_name, names
from .parts import Part, divide, natural
from .statistics import paired

Floats = NDArray[np.float64]
Matrix = tuple[tuple[float | None, ...], ...]
Setting = tuple[str, float]  # what the ratio counts, and the ratio


def agreements(records: Sequence[Record]) -> tuple[Agreement, ...]:
    """Compare all criteria on each architecture, part by part.

    Seeds are paired as in the tests, and the figures of all pairs of seeds are averaged. Where
    there is but one criterion, there is nothing to compare and no agreement.
    """
    found = []
    called = names(records)
    for (arch, axes), settings in _models(records).items():
        rows = {key: by_name(group, called) for key, group in settings.items()}
        scores = _scores(rows)
        if len(scores) < 2:
            continue
        sizes, kinds = _axes(next(iter(next(iter(scores.values())).values())))
        parts = divide(kinds)
        counted = {by for by, _ in settings}
        correlation = correlations(scores, sizes, parts)
        overlap = {
            f"{ratio:g}" if len(counted) == 1 else f"{ratio:g} of {by}": overlaps(
                rows[by, ratio], tuple(scores), sizes, parts
            )
            for by, ratio in settings
        }
        found += [
            Agreement(
                arch,
                axes,
                part.name,
                part.sort,
                sum(sizes[axis] for axis in part.axes),
                tuple(scores),
                correlation[n],
                {key: matrices[n] for key, matrices in overlap.items()},
            )
            for n, part in enumerate(parts)
        ]
    return tuple(found)


def kept_fractions(records: Sequence[Record]) -> tuple[Kept, ...]:
    """Tell what fraction of every axis each criterion keeps, at each budget."""
    found = []
    called = names(records)
    for (arch, axes), settings in _models(records).items():
        for (by, ratio), group in settings.items():
            for name, runs in by_name(group, called).items():
                sizes, kinds = _axes(next(iter(runs.values())))
                fractions = {
                    axis: float(np.mean([len(one.kept[axis]) / size for one in runs.values()]))
                    for axis, size in sizes.items()
                }
                found.append(Kept(arch, axes, by, ratio, name, fractions, kinds))
    return tuple(found)


def correlations(
    scores: Mapping[str, Runs], sizes: Mapping[str, int], parts: Sequence[Part]
) -> list[Matrix]:
    """Return Spearman's rank correlation of all criteria's scores, a matrix per part.

    Scores of all criteria can be compared within an axis only; so that is where slices are
    ranked, ties in the middle of their places. A part's correlation is the mean over its axes,
    by their number of slices; axes where a criterion scores all slices alike have none.
    """
    rows = [record for runs in scores.values() for record in runs.values()]
    total = np.zeros((len(parts), len(rows), len(rows)))
    weight = np.zeros_like(total)
    for axis, size in sizes.items():
        ranks = rankdata([record.scores[axis] for record in rows], axis=1)  # (rows, size)
        ranks -= ranks.mean(1, keepdims=True)
        lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
        units = np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)
        varied = (lengths > 0).astype(np.float64)
        here = [axis in part.axes for part in parts]
        total[here] += size * (units @ units.T)
        weight[here] += size * (varied @ varied.T)
    mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return _matrices(mean, scores, tuple(scores))


def overlaps(
    rows: Mapping[str, Runs], wanted: Sequence[str], sizes: Mapping[str, int], parts: Sequence[Part]
) -> list[Matrix]:
    """Return the Jaccard index of what all criteria keep, a matrix per part.

    That is the number of slices that both keep, over the number that either keeps. Two that
    keep nothing of a part agree on it.

    Args:
        rows: Criteria at one budget.
        wanted: Names of all criteria; None stands for the overlap with one that is not in `rows`.
        sizes: Axis name to its number of slices.
        parts: Of the model.
    """
    records = [record for runs in rows.values() for record in runs.values()]
    both = np.zeros((len(parts), len(records), len(records)))
    either = np.zeros_like(both)
    for axis, size in sizes.items():
        stays = np.zeros((len(records), size))
        for row, record in zip(stays, records, strict=True):
            row[record.kept[axis]] = 1
        shared = stays @ stays.T
        counts = stays.sum(1)
        here = [axis in part.axes for part in parts]
        both[here] += shared
        either[here] += counts[:, None] + counts - shared
    mean = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return _matrices(mean, rows, wanted)


def _models(
    records: Sequence[Record],
) -> dict[tuple[str, tuple[str, ...]], dict[Setting, list[Record]]]:
    """Sort records by model and budget, leaving out repeats of the same scores and choices.

    What follows the scoring, a repair or training, changes neither in one shot. In several
    rounds it may; so the plainest run of each criterion and seed is taken.
    """
    plainest: dict[object, Record] = {}
    for record in sorted(records, key=_plainness):
        cell = record.cell
        if record.report is not None:
            what = (cell.arch, cell.axes, cell.by, cell.ratio)
            plainest.setdefault((*what, cell.criterion, cell.scope, cell.seed), record)
    found: dict[tuple[str, tuple[str, ...]], dict[Setting, list[Record]]] = {}
    order = sorted(
        plainest.values(), key=lambda r: (r.cell.arch, r.cell.axes, r.cell.by, r.cell.ratio)
    )
    for record in order:
        cell = record.cell
        settings = found.setdefault((cell.arch, cell.axes), {})
        settings.setdefault((cell.by, cell.ratio), []).append(record)
    return found


def _plainness(record: Record) -> tuple[bool, bool, str, str]:
    cell = record.cell
    return cell.finetune != NONE, cell.repair != NONE, cell.finetune, cell.repair


def _scores(rows: Mapping[Setting, Mapping[str, Runs]]) -> dict[str, Runs]:
    """Take each criterion's scores from the first budget it was run at; all have the same."""
    found: dict[str, Runs] = {}
    for named in rows.values():
        for name, runs in named.items():
            found.setdefault(name, runs)
    return {name: found[name] for name in sorted(found)}


def _axes(record: Record) -> tuple[dict[str, int], dict[str, str]]:
    """Return the size and the kind of every axis, in order of their names."""
    assert record.report is not None
    axes = record.report["axes"]
    names = sorted(axes, key=natural)
    return {name: axes[name]["size"] for name in names}, {
        name: axes[name]["kind"] for name in names
    }


def _matrices(values: Floats, rows: Mapping[str, Runs], wanted: Sequence[str]) -> list[Matrix]:
    """Average over pairs of seeds.

    Args:
        values: Of all runs of all rows in order, (parts, runs, runs); NaN where there is none.
        rows: What was run.
        wanted: Names of the matrices' rows and columns.

    Returns:
        For each part a matrix with None where there is nothing to average.
    """
    start, places = 0, {}
    for name, runs in rows.items():
        places[name] = {seed: start + n for n, seed in enumerate(runs)}
        start += len(runs)
    found = np.full((len(values), len(wanted), len(wanted)), np.nan)
    for row, first in enumerate(wanted):
        for column, second in enumerate(wanted):
            if first not in places or second not in places:
                continue
            pairs: NDArray[np.int64] = np.array(paired(places[first], places[second]))
            each = values[:, pairs[:, 0], pairs[:, 1]]  # (parts, pairs)
            defined = ~np.isnan(each)
            total = np.where(defined, each, 0).sum(1)
            np.divide(total, defined.sum(1), out=found[:, row, column], where=defined.any(1))
    return [
        tuple(
            tuple(None if np.isnan(value) else round(float(value), 6) for value in row)
            for row in matrix
        )
        for matrix in found
    ]
