"""From masks to small models: what the step from zeros to slices costs, and what it brings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import numpy as np
from safetensors.torch import save
from torch import Tensor, nn

from prunekit import Result, prune
from prunekit.artifact import MASKS, WEIGHTS
from prunekit.comparison.statistics import ANY, compare, holm, interval
from prunekit.inputs.architectures import build
from prunekit.inputs.device import find_device
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.latency import BATCHES, latencies
from prunekit.shared import Shared
from prunekit.weights.zeros import nonzero

from .parts import Cells, Correct, Part, Plain, Settings, pack, unpack
from .to_small_page import page
from .ways import ALIKE, MASKED, PATTERN, REPAIRED, SINGLE, SLICES, Way, rows_of

# Beside what 2:4 implies; of all MACs, and chosen before anything was run.
FURTHER_TARGETS = (0.3, 0.7)
CALIBRATION = 512  # training images
SEEDS = 3  # of these images, which only a repair looks at
GOES = 9  # at timing


@dataclass(frozen=True)
class Made:
    """What came of one way to one target, with as many seeds as make a difference."""

    target: float
    way: Way
    results: Sequence[Result]

    @property
    def model(self) -> nn.Module:
        """The one to be timed and saved; those of other seeds have the same shape."""
        return self.results[0].model

    @property
    def axes(self) -> list[str]:
        """The modules that something leaves."""
        return list(self.results[0].recipe["axes"])


def run(settings: Settings) -> Plain:
    """Prune every model in every way to the same MACs, and compare repaired slices with masks."""
    cells = Cells(settings, "to_small")
    models = {}
    for model in settings.models:
        cell = {**settings.of(model), "further": FURTHER_TARGETS, "images": CALIBRATION}
        cell |= {"seeds": SEEDS, "goes": GOES}
        models[model] = cells.once(cell, partial(measured, settings, model))
    return {
        "calibration": CALIBRATION,
        "further": FURTHER_TARGETS,
        "goes": GOES,
        "models": _plain(models),
        "pairs": _pairs(models),
    }


def measured(settings: Settings, model: str) -> Plain:
    """Make one model small in every way; all that came out is timed side by side."""
    made = list(_made(settings, model))
    dense = _dense(settings, model)
    times = _times([dense, *(one.model for one in made)], InputSpec.of(dense).example())
    first = made[0].results[0]
    assert first.correct is not None
    before = {
        **_accuracy([first.correct[0].numpy()]),
        "macs": first.before.macs,
        "params": nonzero(dense),
        "held": first.before.params,
        "bytes": len(save(dict(dense.state_dict()))),
        "latency": times[0],
    }
    rows = [{**_row(one), "latency": own} for one, own in zip(made, times[1:], strict=True)]
    return {"dense": before, "rows": rows}


def _made(settings: Settings, model: str) -> Iterable[Made]:
    """Prune to what 2:4 implies, and to further targets, in ascending order."""
    own, shared = settings.of(model), Shared()
    own.pop("model")

    def pruned(
        way: Way, ratio: float | None, seeds: int = 1, axes: Sequence[str] | None = None
    ) -> Made:
        results = [
            prune(
                model,
                "dimap",
                ratio,
                granularity=way.granularity,
                by="macs",
                repair=way.repair,
                axes=axes,
                evaluate=True,
                timed=False,
                calibration=CALIBRATION,
                shared=shared,
                **{**own, "seed": settings.seed + number},
            )
            for number in range(seeds)
        ]
        done = Made(results[0].got if ratio is None else ratio, way, results)
        found = fmean(result.after.top1 or 0 for result in results)
        print(model, way.name, f"{results[0].got:.1%} of MACs, {found:.2f}", flush=True)
        return done

    pattern = pruned(PATTERN, None)
    for target in sorted((pattern.target, *FURTHER_TARGETS)):
        single = pruned(SINGLE, target)
        yield single
        if single.axes != pattern.axes:
            yield pruned(ALIKE, target, axes=pattern.axes)
        if target == pattern.target:
            yield pattern
        yield pruned(SLICES, target)
        yield pruned(REPAIRED, target, SEEDS)


def _dense(settings: Settings, model: str) -> nn.Module:
    weights = settings.of(model)["weights"]
    built = build(model, weights, settings.seed).to(find_device(settings.device))
    return built.model


def _times(models: Sequence[nn.Module], example: Tensor) -> list[Plain]:
    """Time models side by side, in several goes; of each, relative to the first in the same go.

    Returns:
        Of each model, by batch size, the median of the goes, and the lowest and the highest; with
        the median in milliseconds.
    """
    goes = [latencies(models, example) for _ in range(GOES)]
    found = []
    for number in range(len(models)):
        own: Plain = {}
        for batch in BATCHES:
            taken = [go[number][batch].median for go in goes]
            ratios = [go[number][batch].median / go[0][batch].median for go in goes]
            own[str(batch)] = {
                "ms": median(taken),
                "ratio": median(ratios),
                "low": min(ratios),
                "high": max(ratios),
            }
        found.append(own)
    return found


def _row(made: Made) -> Plain:
    """Return what is known of one way to one target, but for its latency."""
    first = made.results[0]
    answers = [result.correct[1].numpy() for result in made.results if result.correct]
    return {
        "target": made.target,
        "way": made.way.name,
        "axes": made.axes,
        "macs": first.got,
        "params": nonzero(first.model),
        "held": first.after.params,
        **_sizes(first),
        **_accuracy(answers),
        "answers": [pack(one) for one in answers],
    }


def _accuracy(answers: Sequence[Correct]) -> Plain:
    """Return the mean top-1 of all seeds with its 95 % confidence interval, in percent."""
    low, high = interval(answers)
    each = [float(100 * np.mean(one)) for one in answers]
    return {"top1": fmean(each), "low": low, "high": high, "each": each, "images": len(answers[0])}


def _sizes(result: Result) -> Plain:
    """Return the bytes of weights and masks as saved and, with masks, what could do at best.

    That is the values of what stays, and a bit for every weight that might have left.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "saved"
        result.save(directory)
        files = [directory / name for name in (WEIGHTS, MASKS)]
        saved = sum(file.stat().st_size for file in files if file.exists())
    if result.sparsity is None:
        return {"bytes": saved, "sparse_bytes": None}
    layers = result.sparsity.layers.values()
    zeros = sum(layer.weights - layer.nonzero for layer in layers)
    itemsize = next(result.model.parameters()).element_size()
    return {"bytes": saved, "sparse_bytes": saved - itemsize * zeros}


def _pairs(models: Mapping[str, Plain]) -> list[Plain]:
    """Compare repaired slices with each sort of masks, image by image, adjusted over all pairs."""
    pairs, compared = [], []
    for model, found in models.items():
        for small in rows_of(found, REPAIRED):
            for way in MASKED:
                for masked in rows_of(found, way, small["target"]):
                    target = small["target"]
                    pairs.append({"model": model, "target": target, "against": way.name})
                    compared.append(compare(_answers(small), _answers(masked)))
    adjusted = map(float, holm([one.p for one in compared]))
    return [
        {
            **pair,
            "difference": one.difference,
            "p": one.p,
            "adjusted": p,
            "verdict": one.verdict(p),
        }
        for pair, one, p in zip(pairs, compared, adjusted, strict=True)
    ]


def _answers(row: Plain) -> dict[int | None, Correct]:
    answers = [unpack(one, row["images"]) for one in row["answers"]]
    return {ANY: answers[0]} if len(answers) == 1 else dict(enumerate(answers))


def _plain(models: Mapping[str, Plain]) -> Plain:
    """Return everything but the single answers, which only the tests needed."""
    return {
        model: {
            "dense": found["dense"],
            "rows": [
                {key: value for key, value in row.items() if key != "answers"}
                for row in found["rows"]
            ],
        }
        for model, found in models.items()
    }


PART = Part("small", "From masks to small models", run, page)
