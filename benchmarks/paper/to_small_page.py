"""From masks to small models, as a page: tables, and the step in words."""

from __future__ import annotations

from collections.abc import Sequence

from prunekit.measuring.latency import BATCHES

from .parts import Plain, table
from .ways import MASKED, REPAIRED, SINGLE, SLICES, rows_of

NOTE = """\
Zeros do not make a dense kernel faster, and the paper leaves acceleration open. Here DIMAP removes
the same MACs as single weights, as two of every four weights, and as slices (MLP channels and
heads), which alone make the model smaller; `lstsq` then refits what stays on {calibration} training
images without labels. Where single weights would also leave modules that 2:4
and slices spare, as in ConvNeXt, a row of their own spares these too. One shot, no training. The
targets are what 2:4 implies, which cannot be chosen, and {further} of the MACs.

MACs of masks are *implied*: layers counted by their density. Those of slices are what the model
computes. Top-1 is on {images:,} test images, in brackets the interval of 95 % (of other test images
of the same kind); with lstsq it is the mean of {repeats} draws of calibration images, those of one
row within {spread:.2f} points of each other, and the others depend on no draw. Parameters are non-
zero ones / all that are held. Latency and sizes are multiples of the dense model's. All models of a
table were timed side by side, in {goes} goes: the median of the goes, in brackets the lowest and
the highest. *File* is the saved weights and, at a bit each, masks. *At best* is computed, not
saved: the values that stay, and the masks.

A 2:4 model needs CUDA devices with sparse tensor cores to be faster (compute capability 8.0 or
more, in half precision, after `prunekit.to_semi_structured`). That was not measured; its latency
here is that of dense kernels, which multiply zeros as well."""
HEADINGS = (
    "MACs to remove, and how",
    "removed",
    "top-1, %",
    "points",
    "k parameters",
    *(f"latency, batch {batch}" for batch in BATCHES),
    "file",
    "at best",
)


def page(data: Plain) -> str:
    """Show what came out overall, then a table and the step in words for each model."""
    models = data["models"]
    rows = [row for found in models.values() for row in found["rows"]]
    draws = [row["each"] for row in rows if row["way"] == REPAIRED.name]
    note = NOTE.format(
        calibration=data["calibration"],
        further=" and ".join(map(_percent, data["further"])),
        images=rows[0]["images"],
        repeats=len(draws[0]),
        spread=max(max(each) - min(each) for each in draws),
        goes=data["goes"],
    )
    blocks = [_model(name, found, data["pairs"]) for name, found in models.items()]
    return "\n\n".join([note, _overall(rows, data["pairs"]), *blocks])


def _overall(rows: Sequence[Plain], pairs: Sequence[Plain]) -> str:
    """Say in a few sentences what the step from masks to small costs, and what it brings."""
    verdicts = [pair["verdict"] for pair in pairs]
    masks, small = (
        [row for row in rows if (row["way"] in {way.name for way in MASKED}) == masked]
        for masked in (True, False)
    )
    differences = [pair["difference"] for pair in pairs]
    return (
        f"**In all.** Of {len(pairs)} comparisons with masks of the same MACs, slices + lstsq is "
        f"better in {verdicts.count('better')}, worse in {verdicts.count('worse')} and tied in "
        f"{verdicts.count('tie')}, by {min(differences):+.2f} to {max(differences):+.2f} points "
        "(McNemar's exact test on the same images in every draw, combined as twice the median p, "
        "Holm's correction over all of these, at 5 %, and every draw of the same sign). A forward "
        f"pass takes {_range(masks, '1')} of the dense time with masks and {_range(small, '1')} "
        f"with slices at batch 1, {_range(masks, '8')} and {_range(small, '8')} at batch 8."
    )


def _range(rows: Sequence[Plain], batch: str) -> str:
    ratios = [row["latency"][batch]["ratio"] for row in rows]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _model(name: str, found: Plain, pairs: Sequence[Plain]) -> str:
    dense, rows = found["dense"], found["rows"]
    lines = [["dense", "", _top1(dense), "", _params(dense), *_milliseconds(dense), "1.00", ""]]
    lines += [_line(row, dense) for row in rows]
    targets = dict.fromkeys(row["target"] for row in rows)
    own = [pair for pair in pairs if pair["model"] == name]
    steps = [_step(found, target, own) for target in targets]
    ways = {row["way"]: "+".join(row["axes"]) for row in rows}
    where = ", ".join(f"*{way}* in {axes}" for way, axes in ways.items())
    said = f"**{name}**. What something leaves: {where}."
    return "\n\n".join([said, table(HEADINGS, lines), "\n".join(steps)])


def _line(row: Plain, dense: Plain) -> list[str]:
    best = row["sparse_bytes"]
    return [
        f"{_percent(row['target'])}: {row['way']}",
        _percent(row["macs"]) + (" implied" if best else ""),
        _top1(row),
        f"{row['top1'] - dense['top1']:+.2f}",
        _params(row),
        *(_latency(row["latency"][str(batch)]) for batch in BATCHES),
        f"{row['bytes'] / dense['bytes']:.2f}",
        f"{best / dense['bytes']:.2f}" if best else "",
    ]


def _step(found: Plain, target: float, pairs: Sequence[Plain]) -> str:
    """Say what the step from masks to small costs at one target, and what it brings."""
    single, slices, small = (rows_of(found, way, target)[0] for way in (SINGLE, SLICES, REPAIRED))
    faster = ", ".join(
        f"{_ratio(single, batch)} to {_ratio(small, batch)} at batch {batch}" for batch in BATCHES
    )
    whole = found["dense"]["bytes"]
    tests = "; ".join(
        f"{pair['difference']:+.2f} against {pair['against']}, {_verdict(pair)}"
        for pair in pairs
        if pair["target"] == target
    )
    return (
        f"- {_percent(target)} of the MACs: slices instead of single weights change top-1 by "
        f"{slices['top1'] - single['top1']:+.2f} points, and with lstsq by {tests}. They take a "
        f"forward pass from {faster} of the dense time, and the file from "
        f"{single['bytes'] / whole:.2f} to {small['bytes'] / whole:.2f} of the dense one, where a "
        f"sparse file would need {single['sparse_bytes'] / whole:.2f}."
    )


def _verdict(pair: Plain) -> str:
    said = {"tie": "a tie", "better": "significantly better", "worse": "significantly worse"}
    p = "p < 0.001" if pair["adjusted"] < 0.001 else f"p = {pair['adjusted']:.3f}"
    return f"{said[pair['verdict']]} ({p})"


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"


def _top1(row: Plain) -> str:
    return f"{row['top1']:.2f} ({row['low']:.1f}–{row['high']:.1f})"


def _params(row: Plain) -> str:
    return f"{row['params'] / 1e3:,.0f} / {row['held'] / 1e3:,.0f}"


def _milliseconds(dense: Plain) -> list[str]:
    return [f"1.00 ({dense['latency'][str(batch)]['ms']:.2f} ms)" for batch in BATCHES]


def _latency(own: Plain) -> str:
    return f"{own['ratio']:.2f} ({own['low']:.2f}–{own['high']:.2f})"


def _ratio(row: Plain, batch: int) -> str:
    return f"{row['latency'][str(batch)]['ratio']:.2f}"
