"""Models that lost slices, and what they still get right, on training and on test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from torch import nn

from prunekit import Result, prune
from prunekit.criteria import CRITERIA
from prunekit.criteria.base import Criterion
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import Data, Images, batches, open_data
from prunekit.measuring.accuracy import EVAL_BATCH, hits
from prunekit.planning.budget import By
from prunekit.shared import Shared

from .parts import Cells, Correct, Plain, Settings, pack, unpack
from .variants import VARIANTS

RATIOS = (0.3, 0.5, 0.7)  # of all parameters, or of all MACs
SPLITS = ("train", "test")

Entry = tuple[str, str]  # a variant's or criterion's name, and its scope
Where = tuple[str, float]  # a model and a ratio


@dataclass(frozen=True)
class Row:
    """What one entry leaves of every model at every ratio.

    Attributes:
        correct: Split to model and ratio to seed to whether each image was classified correctly,
            (images,).
        dense: Split to model to the same of the whole model.
        kept: Model and ratio to kind to the fraction of its slices that stay; of the first seed.
        got: Model and ratio to the fraction of parameters removed; of the first seed.
    """

    correct: Mapping[str, Mapping[Where, Mapping[int, Correct]]]
    dense: Mapping[str, Mapping[str, Correct]]
    kept: Mapping[Where, Mapping[str, float]]
    got: Mapping[Where, float]

    def lost(self, split: str, where: Where) -> float:
        """Return the points of top-1 that were lost, mean over the seeds."""
        left = np.mean(list(self.correct[split][where].values()))
        return float(100 * (self.dense[split][where[0]].mean() - left))

    def mean_lost(self, split: str) -> float:
        """Return the points lost, mean over models and ratios."""
        return float(np.mean([self.lost(split, where) for where in self.correct[split]]))

    def per_image(self, split: str) -> np.ndarray:
        """Return how often each image is right, over models, ratios and seeds, (images,)."""
        cells = self.correct[split].values()
        return np.mean([np.mean(list(seeds.values()), axis=0) for seeds in cells], axis=0)


class Bench:
    """Prunes and evaluates; what is on disk is read from there."""

    def __init__(self, settings: Settings):
        self._settings, self._cells = settings, Cells(settings, "slice_score")
        self._shared = Shared()
        self._answers: dict[tuple[object, ...], Plain] = {}  # different scores may cut alike

    def images(self, split: str) -> int:
        """Return how many images a split has."""
        return len(self._split(self._settings.models[0], split))  # type: ignore[arg-type]

    def row(self, entry: Entry, repair: str, seeds: Sequence[int], by: By = "params") -> Row:
        """Return what comes of one variant or criterion, repaired or not."""
        grid = list(product(self._settings.models, RATIOS))
        cells = {
            where: {s: self._cell(where, entry, repair, s, by) for s in seeds} for where in grid
        }
        first = {where: found[seeds[0]] for where, found in cells.items()}
        dense = {model: self._dense(model) for model in self._settings.models}
        return Row(
            {
                split: {
                    where: {seed: self._unpacked(found, split) for seed, found in of_seeds.items()}
                    for where, of_seeds in cells.items()
                }
                for split in SPLITS
            },
            {
                split: {m: self._unpacked(found, split) for m, found in dense.items()}
                for split in SPLITS
            },
            {where: found["kept"] for where, found in first.items()},
            {where: found["got"] for where, found in first.items()},
        )

    def _unpacked(self, found: Plain, split: str) -> Correct:
        return unpack(found[split], self.images(split))

    def _dense(self, model: str) -> Plain:
        return self._cells.once({"model": model}, lambda: self._answered(build(model).model, model))

    def _cell(self, where: Where, entry: Entry, repair: str, seed: int, by: By) -> Plain:
        cell = dict(zip(("model", "ratio", "score", "scope"), (*where, *entry), strict=True))
        return self._cells.once(
            {**cell, "by": by, "repair": repair, "seed": seed},
            lambda: self._pruned(where, entry, repair, seed, by),
        )

    def _pruned(self, where: Where, entry: Entry, repair: str, seed: int, by: By) -> Plain:
        (model, ratio), (name, scope) = where, entry
        result = prune(
            **{**self._settings.of(model), "seed": seed},
            criterion=criterion(name),
            ratio=ratio,
            by=by,
            scope=scope,
            repair=repair,
            shared=self._shared,
        )
        made = (model, repair, seed if repair != "none" else None, *result.plan.kept.values())
        if made not in self._answers:
            self._answers[made] = self._answered(result.model, model)
        print(*where, *entry, by, repair, seed, f"got {result.got:.3f}", flush=True)
        return {**self._answers[made], "got": result.got, "kept": kept(result)}

    def _answered(self, net: nn.Module, model: str) -> Plain:
        return {
            split: pack(hits(net, batches(self._split(model, split), EVAL_BATCH))[:, 0])
            for split in SPLITS
        }

    def _split(self, model: str, split: str) -> Images:
        data = opened(model, self._settings.data or zoo.DATA)
        images = data.test if split == "test" else data.calibration
        assert images is not None, "the study needs training images"
        return images


def kept(result: Result) -> dict[str, float]:
    """Return the fraction of the slices of each kind that stay."""
    sums: dict[str, list[int]] = {}
    for axis, slices in result.plan.kept.items():
        count = sums.setdefault(result.kinds[axis], [0, 0])
        count[0] += len(slices)
        count[1] += result.plan.sizes[axis]
    return {kind: stay / size for kind, (stay, size) in sums.items()}


@cache
def criterion(name: str) -> Criterion:
    """Return a variant or a registered criterion; the same each time, so that scores are shared."""
    for variant in VARIANTS:
        if variant.name == name:
            return variant.criterion("model")
    return CRITERIA.get(name)


@cache
def opened(model: str, data: str) -> Data:
    return open_data(data, build(model).model)
