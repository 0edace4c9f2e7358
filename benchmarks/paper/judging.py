"""The rules by which the paper's claims are judged, from the numbers of the other parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean
from typing import Any

from prunekit.comparison.statistics import LEVEL, holm
from prunekit.criteria import CRITERIA

from .parts import Plain, is_swin
from .pictures import mean
from .published import TABLE_1, TABLE_3_RATIOS
from .sizes import agrees

REPRODUCED, NOT, UNCHECKED = "reproduced", "not reproduced", "not checkable here"
SMALL = "reproduced at small scale"
WORST_LOSS = 0.81  # points of top-1, of Swin-T's DIMAP3, the paper's largest after fine-tuning

Parts = Mapping[str, Plain]


@dataclass(frozen=True)
class Finding:
    """What came of a claim: the verdict, and the numbers it rests on."""

    verdict: str
    numbers: str


def _verdict(holds: bool, models: Sequence[str]) -> str:
    """Name the outcome; on models other than the paper's it is one at small scale."""
    if not holds:
        return NOT
    return REPRODUCED if set(models) & set(TABLE_1) else SMALL


# Sizes


def params(parts: Parts) -> Finding:
    return _within(parts["sizes"], "params", "M")


def dense_macs(parts: Parts) -> Finding:
    rows = [row for row in parts["sizes"]["rows"] if row["row"] == "dense"]
    return _within({**parts["sizes"], "rows": rows}, "macs", "G")


def masked_macs(parts: Parts) -> Finding:
    rows = [row for row in parts["sizes"]["rows"] if row["row"] != "dense"]
    even = sum(agrees(row, "macs", parts["sizes"]["within"]["macs"], even=True) for row in rows)
    found = _within({**parts["sizes"], "rows": rows}, "macs", "G")
    weights = " and ".join(dict.fromkeys(row["weights"] for row in rows))
    numbers = f"{found.numbers}, of {weights} weights; {even} with equal densities in a module"
    return Finding(found.verdict, numbers)


def _within(sizes: Plain, what: str, unit: str) -> Finding:
    rows, within = sizes["rows"], sizes["within"][what]
    count = sum(agrees(row, what, within) for row in rows)
    apart = max(abs(row[what] - row["paper"][what]) for row in rows)
    numbers = f"{count} of {len(rows)} rows, the farthest {apart:.2f} {unit} away"
    return Finding(REPRODUCED if count == len(rows) else NOT, numbers)


def swin_b_params(parts: Parts) -> Finding:
    saved = _saved(parts["sizes"], "params")
    return Finding(REPRODUCED if abs(saved - 52.5) <= 0.2 else NOT, f"{saved:.1f} %")


def swin_b_macs(parts: Parts) -> Finding:
    saved, even = _saved(parts["sizes"], "macs"), _saved(parts["sizes"], "even_macs")
    numbers = f"{saved:.1f} %; {even:.1f} % with equal densities in a module"
    return Finding(REPRODUCED if abs(saved - 52.7) <= 0.2 else NOT, numbers)


def _saved(sizes: Plain, what: str) -> float:
    """Return how many percent DIMAP3 removes of Swin-B."""
    rows = {row["row"]: row for row in sizes["rows"] if row["model"] == "swin_b"}
    return float(100 * (1 - rows["DIMAP3"][what] / rows["dense"][what.removeprefix("even_")]))


# One shot


def better_at_the_papers_ratios(parts: Parts) -> Finding:
    found = parts["unstructured"]["table_3"]
    return _better(found, "uniform magnitude", range(len(TABLE_3_RATIOS)))


def better_at_any_ratio(parts: Parts) -> Finding:
    found = parts["unstructured"]["table_3"]
    return _better(found, "uniform magnitude", range(len(found["ratios"])))


def three_better_than_one(parts: Parts) -> Finding:
    found = parts["unstructured"]["table_4"]
    return _better(found, "one module", range(len(found["ratios"])))


def better_on_others(parts: Parts) -> Finding:
    """Look only at models that are not Swin Transformers."""
    found = parts["unstructured"]["table_3"]
    others = {name: one for name, one in found["models"].items() if not is_swin(name)}
    if not others:
        return Finding(UNCHECKED, "all models are Swin Transformers")
    columns = range(len(found["ratios"]))
    return _better({**found, "models": others}, "uniform magnitude", columns)


def _better(part: Plain, against: str, columns: range) -> Finding:
    """Ask for two thirds of the models in favour, and none against."""
    wins, losses, said = 0, 0, []
    for model in part["models"]:
        pairs = _pairs(part, model, against, columns)
        better = sum(pair["verdict"] == "better" for pair in pairs)
        worse = sum(pair["verdict"] == "worse" for pair in pairs)
        wins, losses = wins + bool(better and not worse), losses + bool(worse)
        said.append(f"{model} better at {better}, worse at {worse} of {len(pairs)} ratios")
    holds = wins >= _most(part["models"]) and not losses
    return Finding(_verdict(holds, list(part["models"])), "; ".join(said))


def grows(parts: Parts) -> Finding:
    part = parts["unstructured"]["table_3"]
    wins, losses, said = 0, 0, []
    for model in part["models"]:
        pairs = _pairs(part, model, "uniform magnitude", range(len(part["ratios"])))
        last = pairs[-1]
        largest = last["difference"] == max(pair["difference"] for pair in pairs)
        wins += largest and last["verdict"] == "better"
        losses += last["verdict"] == "worse"
        ends = f"{pairs[0]['difference']:+.2f} to {last['difference']:+.2f}"
        said.append(f"{model} from {ends} points")
    holds = wins >= _most(part["models"]) and not losses
    return Finding(_verdict(holds, list(part["models"])), "; ".join(said))


def collapses(parts: Parts) -> Finding:
    part = parts["unstructured"]["table_3"]
    column = part["ratios"].index(TABLE_3_RATIOS[-1])
    collapsed, said = 0, []
    for model, methods in part["models"].items():
        uniform = methods["uniform magnitude"]
        now, last = (uniform[n]["masked"]["top1"] for n in (column, -1))
        dense = uniform[column]["dense"]["top1"]
        collapsed += now < dense / 2
        said.append(
            f"{model} {dense:.1f} dense, {now:.1f} at {100 * part['ratios'][column]:.0f} %, "
            f"{last:.1f} at {100 * part['ratios'][-1]:.0f} %"
        )
    holds = collapsed >= _most(part["models"])
    return Finding(_verdict(holds, list(part["models"])), "; ".join(said))


def _pairs(part: Plain, model: str, against: str, columns: range) -> list[Plain]:
    return [
        pair
        for pair in part["pairs"]
        if (pair["model"], pair["against"]) == (model, against) and pair["column"] in columns
    ]


def _most(models: Any) -> int:
    return ceil(2 * len(models) / 3)


# After fine-tuning


def nothing_lost(parts: Parts) -> Finding:
    found = parts["finetuned"]
    pairs = [pair for pair in _tuned(found, "dense") if pair["name"] == "DIMAP1"]
    holds = all(pair["verdict"] != "worse" for pair in pairs)
    return _of_pairs(found, pairs, holds)


def little_lost(parts: Parts) -> Finding:
    found = parts["finetuned"]
    pairs = [pair for pair in _tuned(found, "dense") if pair["name"] == "DIMAP3"]
    return _of_pairs(found, pairs, all(pair["difference"] >= -WORST_LOSS for pair in pairs))


def three_better_after_training(parts: Parts) -> Finding:
    found = parts["finetuned"]
    pairs = [pair for pair in _tuned(found, "one") if pair["name"] == "DIMAP3"]
    return _of_pairs(found, pairs, all(pair["verdict"] == "better" for pair in pairs))


def _tuned(found: Plain, against: str) -> list[Plain]:
    return [pair for pair in found["pairs"] if pair["against"] == against]


def _of_pairs(found: Plain, pairs: Sequence[Plain], holds: bool) -> Finding:
    if not pairs:
        return Finding(UNCHECKED, "nothing was fine-tuned")
    epochs, seeds = found["settings"]["epochs"], len(found["seeds"])
    said = "; ".join(
        f"{pair['model']} {pair['difference']:+.2f} points ({pair['verdict']}, "
        f"adjusted p {pair['adjusted']:.2g})"
        for pair in pairs
    )
    said += f"; recipe {found['recipe']}, {epochs} epochs, seeds: {seeds}"
    if all(_row(found, pair)["kept_start"] == seeds for pair in pairs):
        return Finding(UNCHECKED, f"{said}; no epoch was better than the start: not trained at all")
    return Finding(_verdict(holds, [pair["model"] for pair in pairs]), said)


def _row(found: Plain, pair: Plain) -> Plain:
    rows: list[Plain] = found["models"][pair["model"]]["rows"]
    return next(row for row in rows if row["name"] == pair["name"])


def table_1_accuracies(parts: Parts) -> Finding:
    """Compare with the paper's accuracies, to within a quarter of a point."""
    found = parts["finetuned"]
    apart = [
        fmean(one["top1"] for one in row["after"]) - TABLE_1[model][row["name"]].top1
        for model in found["models"]
        if model in TABLE_1
        for row in found["models"][model]["rows"]
        if row["name"] in TABLE_1[model] and row["after"]
    ]
    if not apart:
        return Finding(UNCHECKED, "there are neither ImageNet nor weights trained on it here")
    worst = max(map(abs, apart))
    numbers = f"{len(apart)} rows, the farthest {worst:.2f} points away"
    return Finding(REPRODUCED if worst <= 0.25 else NOT, numbers)


# The method and its pictures


def no_layer_vanishes(parts: Parts) -> Finding:
    models = parts["pictures"]["models"]
    kept = min(layer["kept"] for found in models.values() for layer in found["layers"])
    left = min(found["least_of_1_percent"] for found in models.values())
    numbers = (
        f"DIMAP3 keeps at least {100 * kept:.1f} % of every layer of {', '.join(models)}; if 99 % "
        f"of each module leave, every layer keeps {left} weights or more"
    )
    return Finding(_verdict(kept > 0 and left > 0, list(models)), numbers)


def largest_scores_1(parts: Parts) -> Finding:
    models = parts["pictures"]["models"]
    low = min(found["largest_score"][0] for found in models.values())
    high = max(found["largest_score"][1] for found in models.values())
    layers = sum(len(found["layers"]) for found in models.values())
    numbers = f"{layers} layers of {', '.join(models)}: from {low:g} to {high:g}"
    return Finding(REPRODUCED if low == high == 1 else NOT, numbers)


def without_data(parts: Parts) -> Finding:
    needs = CRITERIA.get("dimap").needs
    numbers = f"the criterion declares that it needs {needs}, and `prune` hands it no more"
    return Finding(REPRODUCED if needs == "nothing" else NOT, numbers)


def queries_denser(parts: Parts) -> Finding:
    return _seen(
        parts,
        lambda one: one["queries_keys"] > one["values"],
        lambda one: (
            f"{100 * one['queries_keys']:.0f} % of q, k and {100 * one['values']:.0f} % of v"
        ),
    )


def rows_vanish(parts: Parts) -> Finding:
    return _seen(
        parts,
        lambda one: one["gone_in_fc1"] > max(0, one["gone_by_chance"]),
        lambda one: (
            f"{100 * one['gone_in_fc1']:.1f} %, by chance {100 * one['gone_by_chance']:.1g} %"
        ),
    )


def same_pattern(parts: Parts) -> Finding:
    found = _seen(
        parts, lambda one: one["alike"] > 0, lambda one: f"correlation {one['alike']:+.2f}"
    )
    blocks = [b for one in parts["pictures"]["models"].values() for b in one["blocks"]]
    count = int((holm([block["alike_p"] for block in blocks]) <= LEVEL).sum())
    verdict = found.verdict if count == len(blocks) else NOT
    return Finding(verdict, f"{found.numbers}; significant in {count}")


def _seen(parts: Parts, holds: Callable[[Plain], bool], said: Callable[[Plain], str]) -> Finding:
    """Look at the block that was drawn, as the paper's was, and at the mean of all blocks."""
    models, numbers, outcomes = parts["pictures"]["models"], [], []
    for model, found in models.items():
        blocks = found["blocks"]
        drawn = next(one for one in blocks if one["block"] == found["shown"])
        count = sum(map(holds, blocks))
        outcomes += [holds(drawn), holds(mean(blocks))]
        numbers.append(
            f"{model}: {said(drawn)} in the block drawn, {said(mean(blocks))} in the mean; so in "
            f"{count} of {len(blocks)} blocks"
        )
    return Finding(_verdict(all(outcomes), list(models)), "; ".join(numbers))


# From masks to small models


def no_acceleration(parts: Parts) -> Finding:
    """Ask whether masks made anything faster than the dense model by more than the spread."""
    models = parts["small"]["models"]
    ratios = {way: _latencies(models, way) for way in ("single weights", "slices")}
    holds = all(one["high"] >= 1 for one in ratios["single weights"])
    said = "; ".join(
        f"{way} take {min(one['ratio'] for one in found):.2f} to "
        f"{max(one['ratio'] for one in found):.2f} of the dense model's time"
        for way, found in ratios.items()
    )
    return Finding(_verdict(holds, list(models)), said)


def _latencies(models: Plain, way: str) -> list[Plain]:
    """Return the latencies of a way to prune, of all models, targets and batch sizes."""
    rows = [row for found in models.values() for row in found["rows"] if row["way"] == way]
    return [latency for row in rows for latency in row["latency"].values()]


# The paper against itself


def swapped(parts: Parts) -> Finding:
    rows = TABLE_1["swin_b"]
    params, macs = (
        100 * (1 - getattr(rows["DIMAP3"], what) / getattr(rows["dense"], what))
        for what in ("params", "macs")
    )
    numbers = f"Table 1's rounded figures give {params:.1f} % of parameters, {macs:.1f} % of FLOPs"
    return Finding(REPRODUCED if params > macs else NOT, numbers)


def relative_top5(parts: Parts) -> Finding:
    rows = TABLE_1["swin_s"]
    gain = max(100 * (row.top5 / rows["dense"].top5 - 1) for row in rows.values())
    numbers = f"the most that Table 1 shows is {gain:.2f} %"
    return Finding(REPRODUCED if gain >= 0.75 else NOT, numbers)


def unchecked(why: str) -> Callable[[Parts], Finding]:
    return lambda parts: Finding(UNCHECKED, why)
