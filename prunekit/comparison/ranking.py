"""Ranks over models: a claim about criteria must hold on models that nobody has tried yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .findings import Column, RankedRow, Ranking, Standing
from .statistics import LEVEL, RESAMPLES

FEWEST_MODELS, FEWEST_ROWS = 3, 3


def rankings(standings: Sequence[Standing]) -> tuple[Ranking, ...]:
    """Rank the rows of every kind of column over all models, where there are enough of both.

    A kind of column has one budget, one repair and one training; its ratios are averaged. A row
    takes part if it has a rank in every such column of every model.
    """
    alike: dict[tuple[str, str, str], list[Standing]] = {}
    for standing in standings:
        column = standing.column
        alike.setdefault((column.by, column.repair, column.finetune), []).append(standing)
    found = (_ranking(chosen) for chosen in alike.values())
    return tuple(ranking for ranking in found if ranking is not None)


def _ranking(standings: Sequence[Standing]) -> Ranking | None:
    columns = [
        (
            s.column,
            {row.name: row.lost for row in s.rows if row.rank is not None and row.lost is not None},
        )
        for s in standings
    ]
    models = list(dict.fromkeys(column.arch for column, _ in columns))
    everywhere = [name for name in columns[0][1] if all(name in lost for _, lost in columns)]
    if len(models) < FEWEST_MODELS or len(everywhere) < FEWEST_ROWS:
        return None
    lost = {
        model: [
            [lost[name] for name in everywhere] for column, lost in columns if column.arch == model
        ]
        for model in models
    }
    ratios = sorted({column.ratio for column, _ in columns})
    some: Column = columns[0][0]
    return rank(everywhere, lost, some.by, some.repair, some.finetune, tuple(ratios))


def rank(
    names: Sequence[str],
    lost: Mapping[str, Sequence[Sequence[float]]],
    by: str,
    repair: str,
    finetune: str,
    ratios: tuple[float, ...],
) -> Ranking:
    """Rank rows over models, and say how sure that is.

    The models are the sample, not the images nor the ratios: within a model, the ranks at all its
    ratios are averaged first.

    Args:
        names: The rows.
        lost: Model to its columns, each with what every row lost there; the least is best.
        by: What the budgets of all columns count, as in `Cell`.
        repair: Their repair.
        finetune: Their training.
        ratios: Those of the columns.

    Source:
        Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006: the
        tests of Friedman and of Nemenyi.
    """
    ranks = np.array(
        [
            np.mean([stats.rankdata(column) for column in columns], axis=0)
            for columns in lost.values()
        ]
    )  # (models, rows)
    models, rows = ranks.shape
    means = ranks.mean(0)
    low, high = np.quantile(_redrawn(ranks), (0.025, 0.975), axis=0)
    within = np.array([stats.rankdata(one) for one in ranks])
    p = float(stats.friedmanchisquare(*within.T).pvalue) if within.std() else 1.0
    critical = critical_difference(models, rows)
    best = within.mean(0).min()
    ordered = sorted(range(rows), key=lambda n: (means[n], names[n]))
    return Ranking(
        by,
        repair,
        finetune,
        ratios,
        models=tuple(lost),
        p=1.0 if np.isnan(p) else p,
        critical=critical,
        rows=tuple(
            RankedRow(
                names[n],
                float(means[n]),
                float(low[n]),
                float(high[n]),
                behind=p <= LEVEL and bool(within.mean(0)[n] - best > critical),
            )
            for n in ordered
        ),
    )


def critical_difference(models: int, rows: int) -> float:
    """Return by how much mean ranks must differ to be told apart, by Nemenyi's test at 5 %.

    Example:
        >>> round(critical_difference(models=10, rows=5), 2)
        1.93
    """
    q = float(stats.studentized_range.ppf(1 - LEVEL, rows, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(rows * (rows + 1) / (6 * models)))


def _redrawn(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean ranks of models drawn anew with replacement, (resamples, rows)."""
    models = len(ranks)
    draws = stats.multinomial.rvs(
        models, np.full(models, 1 / models), RESAMPLES, random_state=np.random.default_rng(0)
    )
    found: NDArray[np.float64] = draws @ ranks / models
    return found
