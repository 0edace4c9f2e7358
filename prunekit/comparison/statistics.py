"""Statistics: what differences between rows mean, and what they do not.

Everything is asked about test images: would the same models, on other images of the same
kind, come out in the same order? How much a row owes to its seed is another question; it is
not tested, but shown beside it as the spread over seeds.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

LEVEL = 0.05  # of an adjusted p-value, at or below which a difference is called one
RESAMPLES = 9999
ANY = None  # stands for the seed of a row whose seed makes no difference

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)
Correct = NDArray[np.bool_]
Verdict = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Comparison:
    """Two rows on the same test images.

    Attributes:
        difference: Points of top-1 of the first over the second, the mean over seeds.
        p: Of no difference in any seed; see `combine`.
        agreed: Whether the difference has the same sign in every seed, zero in none.
    """

    difference: float
    p: float
    agreed: bool

    def verdict(self, adjusted: float) -> Verdict:
        """Call the first row better or worse only if the test and every seed say so.

        The combined p-value speaks against "no seed makes a difference", which one direction
        in one seed and the other in the next would refute as well. So the seeds must agree.
        This can only turn a difference into a tie, never a tie into a difference.

        Args:
            adjusted: The p-value, adjusted for all pairs that are looked at together.
        """
        if not self.agreed or adjusted > LEVEL:
            return "tie"
        return "better" if self.difference > 0 else "worse"


def compare(
    first: Mapping[int | None, Correct], second: Mapping[int | None, Correct]
) -> Comparison:
    """Compare two rows, image by image and seed by seed.

    Args:
        first: Seed to whether each test image was classified correctly, (images,).
        second: The same of the other; see `paired` for which seeds go together.
    """
    pairs = paired(first, second)
    gains = [np.count_nonzero(one) - np.count_nonzero(other) for one, other in pairs]
    images = sum(len(one) for one, _ in pairs)
    return Comparison(
        difference=float(100 * sum(gains) / images),
        p=combine([mcnemar(one, other) for one, other in pairs]),
        agreed=all(gain > 0 for gain in gains) or all(gain < 0 for gain in gains),
    )


def paired(first: Mapping[Key, T], second: Mapping[Key, T]) -> list[tuple[T, T]]:
    """Match two rows' runs by seed, as runs of one seed saw the same calibration images.

    A row whose seed makes no difference has one run, under `ANY`, which goes with every run of
    the other row. So does, for want of better, every run of rows without a seed in common.
    """
    common = [seed for seed in first if seed in second]
    if common:
        return [(first[seed], second[seed]) for seed in common]
    return [(one, other) for one in first.values() for other in second.values()]


def mcnemar(first: Correct, second: Correct) -> float:
    """Return the p-value of McNemar's exact test, two-sided.

    Of the images that one model gets right and the other wrong, each is as likely to favour
    either if the models are equally good. The images on which both do the same say nothing.

    Args:
        first: Whether each test image was classified correctly, (images,).
        second: The same of the other model, on the same images.

    Source:
        McNemar, Note on the sampling error of the difference between correlated proportions or
        percentages, Psychometrika 1947. Same as `scipy.stats.binomtest` on those images, which
        takes 300 times as long to find the other tail of a symmetric distribution.

    Example:
        >>> right = np.ones(5, dtype=bool)
        >>> mcnemar(right, ~right)
        0.0625
    """
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    tail = special.bdtr(min(only_first, only_second), only_first + only_second, 0.5)
    return min(1.0, 2 * float(tail))


def combine(p_values: Sequence[float]) -> float:
    """Combine the p-values of several seeds: twice their median, or the only one itself.

    They depend on each other in ways nobody knows, as all seeds are tested on the same images;
    so what assumes independence (Fisher, Stouffer) would promise too much. Twice the median is
    a p-value whatever the dependence.

    Source:
        Rüger, Das maximale Signifikanzniveau des Tests "Lehne H0 ab, wenn k unter n gegebenen
        Tests zur Ablehnung führen", Metrika 1978; Vovk and Wang, Combining p-values via
        averaging, Biometrika 2020, arXiv:1212.4966.

    Example:
        >>> combine([0.01, 0.02, 0.5]), combine([0.01]), combine([0.7, 0.8])
        (0.04, 0.01, 1.0)
    """
    if len(p_values) == 1:
        return p_values[0]
    return min(1.0, 2 * float(np.median(p_values)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p-values for how many there are, keeping the chance of any false alarm.

    If all adjusted values at or below 0.05 are called differences, the chance of even one false
    alarm among them is at most 5 %, however the tests depend on each other.

    Args:
        p_values: Of all tests that are looked at together, (tests,).

    Returns:
        Adjusted values in the same order, (tests,), none smaller than it was and none above 1.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
        Statistics 1979. SciPy has none.

    Example:
        >>> holm([0.02, 0.25, 0.01]).tolist()
        [0.04, 0.25, 0.03]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    return adjusted


def interval(correct: Sequence[Correct]) -> tuple[float, float]:
    """Return a 95 % bootstrap confidence interval of top-1, in percent.

    Test images are drawn anew, with replacement, each with all its seeds; so the interval is
    about other test images of the same kind and the very models that were tested. It says
    nothing of what other seeds would have given: the spread over seeds does. Nor does its
    overlap with another row's interval say whether they differ: the paired test does.

    An image's mean over the seeds has one of few values, so drawing how often each value comes
    up (a multinomial distribution) gives what drawing the images one by one would, in a
    hundredth of the time of `scipy.stats.bootstrap`. The interval is of percentiles: a mean of
    thousands of numbers between 0 and 1 has little skew or bias for BCa to correct.

    Args:
        correct: For each seed, whether each test image was classified correctly, (images,).

    Returns:
        The 2.5th and the 97.5th percentile. A model that gets every image right has an interval
        without width: a sample without errors cannot tell how rare they are.
    """
    seeds, images = len(correct), len(correct[0])
    hits = np.sum(correct, axis=0, dtype=np.int64)  # (images,), seeds that get it right
    counts = np.bincount(hits, minlength=seeds + 1)
    draws = stats.multinomial.rvs(
        images, counts / images, size=RESAMPLES, random_state=np.random.default_rng(0)
    )  # (resamples, seeds + 1)
    means = draws @ np.arange(seeds + 1) / (seeds * images)
    low, high = np.quantile(100 * means, (0.025, 0.975))
    return float(low), float(high)
