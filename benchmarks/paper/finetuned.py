"""Tables 1 and 4 with training: accuracies before and after fine-tuning with fixed masks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prunekit import Recipe
from prunekit.comparison.statistics import ANY, Comparison, compare, holm
from prunekit.criteria.base import Scope
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import Data, batches, open_data
from prunekit.inputs.device import find_device
from prunekit.measuring.accuracy import EVAL_BATCH, hits
from prunekit.recovery import recipes
from prunekit.recovery.training import Epoch, train_

from .masked import Choice, OneShot, accuracy_of, cell, mask
from .parts import Cells, Correct, Part, Plain, Settings, is_swin, pack, table, unpack
from .published import FRACTIONS, TABLE_1, TABLE_4_ONE_MODULE
from .unstructured import FURTHER_FRACTION

THREE: Scope = "kind"
ONE: Scope = "model"
ONE_MODULE = "DIMAP3, one module"


@dataclass(frozen=True)
class Way:
    """A row of the table: so many of the weights leave, and these compete."""

    name: str
    fraction: float
    scope: Scope

    @property
    def choice(self) -> Choice:
        return Choice("dimap", self.scope, self.fraction, "slices")


def ways(settings: Settings) -> list[Way]:
    """Return the paper's rows and, for small models with weights to spare, two harder ones."""
    published = [Way(name, fraction, THREE) for name, fraction in FRACTIONS.items()]
    published.append(Way(ONE_MODULE, FRACTIONS["DIMAP3"], ONE))
    further = f"{100 * FURTHER_FRACTION:.0f} % (ours)"
    harder = [
        Way(further, FURTHER_FRACTION, THREE),
        Way(f"{further}, one module", FURTHER_FRACTION, ONE),
    ]
    return published + (harder if settings.of_zoo else [])


def run(settings: Settings) -> Plain:
    """Mask every Swin in every way, train it unless the settings say not to, and test it."""
    recipe = recipes.find(settings.recipe).with_(**settings.changes) if settings.recipe else None
    cells, look = Cells(settings, "finetuned"), OneShot(settings)
    models = {}
    for model in filter(is_swin, settings.models):
        dense = cells.once(cell(settings, model), lambda m=model: _dense(settings, m))
        rows = []
        for way in ways(settings):
            before = look(model, way.choice)
            after = _trained_with_seeds(settings, model, way, recipe, cells) if recipe else {}
            rows.append({"way": way, "before": before, "after": after})
        models[model] = {"dense": dense, "rows": rows}
    return {
        "recipe": settings.recipe,
        "settings": recipes.settings_of(recipe) if recipe else None,
        "seeds": list(_seeds(settings)),
        "models": {model: _plain(found) for model, found in models.items()},
        "pairs": _pairs(models),
    }


def _seeds(settings: Settings) -> range:
    return range(settings.seed, settings.seed + settings.repeats)


def _dense(settings: Settings, model: str) -> Plain:
    own = settings.of(model)
    built = build(model, own["weights"], settings.seed).to(find_device(settings.device))
    return _tested(built.model, settings)


def _trained_with_seeds(
    settings: Settings, model: str, way: Way, recipe: Recipe, cells: Cells
) -> dict[int, Plain]:
    found = {}
    for seed in _seeds(settings):
        trial = replace(settings, seed=seed)
        determined_by = cell(trial, model, way.choice, recipe=recipes.settings_of(recipe))
        make = partial(_trained, trial, model, way, recipe, cells.place(determined_by))
        found[seed] = cells.once(determined_by, make)
        print(model, way.name, f"seed {seed}", f"{found[seed]['top1']:.2f}", flush=True)
    return found


def _trained(settings: Settings, model: str, way: Way, recipe: Recipe, workdir: Path) -> Plain:
    """Mask, train with the masks fixed, and test once; a run that was stopped goes on."""
    result = mask(settings, model, way.choice)
    assert result.masks is not None

    def told(epoch: Epoch) -> None:
        print(
            f"  {model} {way.name} epoch {epoch.epoch}, validation {epoch.val_top1:.2f}", flush=True
        )

    train_(
        result.model,
        _data(settings, result.model).calibration,
        recipe,
        masks=result.masks.kept,
        workdir=workdir,
        resume=True,
        seed=settings.seed,
        device=settings.device,
        workers=settings.workers,
        on_epoch=told,
    )
    tested = _tested(result.model, settings)
    shutil.rmtree(workdir)  # checkpoints of large models fill a disk
    return tested


def _data(settings: Settings, model: Any) -> Data:
    return open_data(settings.data or zoo.DATA, model, settings.data_dir)


def _tested(model: Any, settings: Settings) -> Plain:
    found = hits(model, batches(_data(settings, model).test, EVAL_BATCH))
    return {**accuracy_of(found), "correct": pack(found[:, 0]), "images": len(found)}


def _plain(found: Plain) -> Plain:
    """Return everything but the single answers, which only the tests needed."""
    return {
        "dense": _without_answers(found["dense"]),
        "rows": [
            {
                "name": row["way"].name,
                "before": _without_answers(row["before"]),
                "after": [_without_answers(one) for one in row["after"].values()],
                "kept_start": _kept_start(row),
            }
            for row in found["rows"]
        ],
    }


def _kept_start(row: Plain) -> int:
    """Return in how many runs no epoch was better than the start, which was kept then."""
    return sum(one["correct"] == row["before"]["correct"] for one in row["after"].values())


def _without_answers(one: Plain) -> Plain:
    return {key: value for key, value in one.items() if key != "correct"}


def _pairs(models: Mapping[str, Plain]) -> list[Plain]:
    """Compare what was trained with the dense model, and three modules with one.

    Each of the two questions is adjusted over its own pairs.
    """
    against_dense, against_one = [], []
    for model, found in models.items():
        after = {row["way"]: _answers(row["after"]) for row in found["rows"] if row["after"]}
        dense = {ANY: unpack(found["dense"]["correct"], found["dense"]["images"])}
        for way, answers in after.items():
            pair = {"model": model, "name": way.name, "fraction": way.fraction}
            if way.scope == THREE:
                against_dense.append(({**pair, "against": "dense"}, compare(answers, dense)))
            for other, others in after.items():
                if (way.scope, other.scope, other.fraction) == (THREE, ONE, way.fraction):
                    against_one.append(({**pair, "against": "one"}, compare(answers, others)))
    return [*_adjusted(against_dense), *_adjusted(against_one)]


def _answers(after: Mapping[int, Plain]) -> dict[int | None, Correct]:
    return {seed: unpack(one["correct"], one["images"]) for seed, one in after.items()}


def _adjusted(pairs: Sequence[tuple[Plain, Comparison]]) -> list[Plain]:
    adjusted = holm([one.p for _, one in pairs])
    return [
        {
            **pair,
            "difference": one.difference,
            "p": one.p,
            "adjusted": float(p),
            "verdict": one.verdict(float(p)),
        }
        for (pair, one), p in zip(pairs, adjusted, strict=True)
    ]


NOTE = """\
DIMAP1, 2 and 3 remove {fractions} of each module; *one module* removes as much of all matrices
together. Training keeps zeros at zero. {training} Parameters are non-zero ones, MACs those they
imply. **Bold** differences are significant: McNemar's exact test on the same images in every seed,
Holm's correction over the pairs of a column, at 5 %, and every seed of the same sign."""
TRAINING = """\
It went by the recipe `{recipe}`, {epochs} epochs, learning rate {lr:g}, with {seeds} and otherwise
the same settings; the epoch that validates best is kept, or the start if none is better (*start
kept*). Top-1 after it is the mean over the seeds, ± their standard deviation if there are
several."""
NO_TRAINING = "None was asked for here (`--finetune none`)."


def page(data: Plain) -> str:
    """Show a table per model, with the paper's figures where it has some."""
    fractions = ", ".join(f"{100 * one:.0f} %" for one in FRACTIONS.values())
    training = NO_TRAINING
    if data["settings"]:
        count = len(data["seeds"])
        seeds = f"{count} seeds" if count > 1 else f"seed {data['seeds'][0]}"
        training = TRAINING.format(**{**data["settings"], "recipe": data["recipe"]}, seeds=seeds)
    tables = [_model(data, model) for model in data["models"]]
    return "\n\n".join([NOTE.format(fractions=fractions, training=training), *tables])


def _model(data: Plain, model: str) -> str:
    found = data["models"][model]
    published = TABLE_1.get(model, {})
    headings = ["", "params, M", "MACs, M", "top-1 one shot", "top-1 trained", "top-5 trained"]
    headings += ["start kept", "− dense", "three − one module"]
    headings += (
        [f"paper's {one}" for one in ("top-1", "top-5", "params, M", "MACs, M")]
        if published
        else []
    )
    dense, sized = found["dense"], found["rows"][0]["before"]
    first = ["dense", *_millions(sized["dense_params"], sized["dense_macs"])]
    rows = [[*first, f"{dense['top1']:.2f}", "", f"{dense['top5']:.2f}", "", "", ""]]
    for row in found["rows"]:
        before, after = row["before"], row["after"]
        rows.append(
            [
                row["name"],
                *_millions(before["params"], before["macs"]),
                f"{before['masked']['top1']:.2f}",
                _mean([one["top1"] for one in after]),
                _mean([one["top5"] for one in after]),
                f"{row['kept_start']} of {len(after)}" if after else "",
                _difference(data, model, row["name"], "dense"),
                _difference(data, model, row["name"], "one"),
            ]
        )
    if published:
        for row in rows:
            row += _published(model, row[0])
    return f"**{model}**, {dense['images']:,} test images\n\n{table(headings, rows)}"


def _published(model: str, name: str) -> list[str]:
    if name in TABLE_1[model]:
        paper = TABLE_1[model][name]
        sizes = _millions(1e6 * paper.params, 1e9 * paper.macs)
        return [f"{paper.top1:.2f}", f"{paper.top5:.2f}", *sizes]
    if name == ONE_MODULE:
        return [f"{TABLE_4_ONE_MODULE[model]:.2f}", "", "", ""]
    return [""] * 4


def _millions(params: float, macs: float) -> list[str]:
    return [f"{params / 1e6:.2f}", f"{macs / 1e6:,.1f}"]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}"


def _difference(data: Plain, model: str, name: str, against: str) -> str:
    wanted = {"model": model, "name": name, "against": against}
    for pair in data["pairs"]:
        if wanted.items() <= pair.items():
            text = f"{pair['difference']:+.2f}"
            return text if pair["verdict"] == "tie" else f"**{text}**"
    return ""


PART = Part("finetuned", "With fine-tuning: Tables 1 and 4", run, page)
