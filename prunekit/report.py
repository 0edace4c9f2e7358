"""A report -> what the terminal shows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .branch import BLOCK
from .naming import is_within

Report = Mapping[str, Any]
BAR = 24  # characters


def render(report: Report) -> RenderableType:
    """Lay out a report: the two models side by side, what was kept, and how it was made."""
    blank = Text()
    return Group(
        *_warned(report),
        _title(report),
        blank,
        _comparison(report),
        blank,
        _kept(report),
        blank,
        _facts(report),
    )


def _warned(report: Report) -> list[Text]:
    return [Text(f"! {warning}", style="bold red") for warning in report["warnings"]]


def render_export(exported: Report) -> RenderableType:
    """Lay out what `Exported.report` says: the files, the proof, and what was measured."""
    quantized = f", {exported['quantized']}" if exported["quantized"] else ""
    title = Text(exported["arch"], style="bold").append(
        f"  exported to {exported['to']}, {exported['precision']}{quantized}", style="not bold"
    )
    facts = _exported_facts(exported)
    return Group(*_warned(exported), title, Text(), *_exported_measures(exported), facts)


def _exported_measures(exported: Report) -> Iterator[RenderableType]:
    table = _sides("dense", "exported", "change")
    for batch, timing in exported["latency_ms"].items():
        _latency_row(table, batch, timing["dense"], timing["pruned"])
    if table.row_count:
        yield from (table, Text())
    if "after" not in exported["top1"]:
        return
    costs = _sides("float", exported["quantized"], "change")
    before, after = exported["top1"]["before"], exported["top1"]["after"]
    costs.add_row("top-1", f"{before:.2f} %", f"{after:.2f} %", f"{after - before:+.2f} points")
    yield from (costs, Text())


def _exported_facts(exported: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=8)
    table.add_column()
    files = ", ".join(f"{name} {_count(size, 'B')}" for name, size in exported["files"].items())
    table.add_row("files", files)
    images = "any number of images" if not exported["fixed_batch"] else "one image only"
    if exported["fixed_batch"]:
        images += f", since torch.export finds no other: {exported['fixed_batch']}"
    sides = ", of any height and width that the model takes" if exported["dynamic_size"] else ""
    table.add_row("takes", images + sides)
    float_ = "in float, " if exported["quantized"] else ""
    for proof in exported["proofs"]:
        batch = f"at batch {proof['batch']}" if proof["batch"] else "for the example"
        if proof["size"]:
            batch += f" of {proof['size'][0]} x {proof['size'][1]} pixels"
        table.add_row(
            "proof",
            f"{float_}differs from the pruned model by {proof['difference']:.1e} {batch}, where "
            f"its output's scale is {proof['scale']:.2g}",
        )
    return table


def _title(report: Report) -> Text:
    recipe = report["recipe"]
    options = ",".join(f"{k}={v}" for k, v in recipe["options"].items() if k != "seed")
    criterion = f"{recipe['criterion']}:{options}" if options else recipe["criterion"]
    tuned = ", fine-tuned" if report.get("finetune") else ""
    title = Text(f"{recipe['arch']}", style="bold")
    return title.append(
        f"  {criterion}, {_level(recipe)}{_repair(recipe)}"
        f"axes {'+'.join(recipe['axes'])}, weights {recipe['weights']}{tuned}",
        style="not bold",
    )


def _comparison(report: Report) -> Table:
    before, after = report["before"], report["after"]
    table = _sides("before", "after", "change")
    for label, key in (("parameters", "params"), ("MACs", "macs"), ("size on disk", "size_bytes")):
        unit = "B" if key == "size_bytes" else ""
        _row(table, label, before[key], after[key], lambda value, unit=unit: _count(value, unit))
    if report.get("sparsity"):
        found = report["sparsity"]
        _row(table, "non-zero params", found["nonzero_before"], found["nonzero"], _count)
        _row(table, "implied MACs", found["macs"], found["implied_macs"], _count)
    for batch in before["latency_ms"]:
        _latency_row(table, batch, before["latency_ms"][batch], after["latency_ms"][batch])
    if before["memory_bytes"]:
        _row(
            table,
            "peak memory",
            before["memory_bytes"],
            after["memory_bytes"],
            lambda v: _count(v, "B"),
        )
    for key, label in (("top1", "top-1"), ("top5", "top-5")):
        if before[key] is not None:
            points = f"{after[key] - before[key]:+.2f} points"
            table.add_row(label, f"{before[key]:.2f} %", f"{after[key]:.2f} %", points)
    return table


def _sides(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", header_style="dim")
    return table


def _latency_row(
    table: Table, batch: object, old: Mapping[str, float], new: Mapping[str, float]
) -> None:
    change = f"{old['median'] / new['median']:.2f}x faster"
    if new["median"] > old["median"]:
        change = f"{new['median'] / old['median']:.2f}x slower"
    table.add_row(f"latency, batch {batch}", _spread(old), _spread(new), change)


def _row(table: Table, label: str, before: float, after: float, show: Any) -> None:
    table.add_row(label, show(before), show(after), f"{100 * (after / before - 1):+.1f} %")


def _kept(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    masked = bool(report.get("sparsity"))
    heading = "kept of each matrix" if masked else "kept of each axis"
    table.add_column(heading, header_style="dim", no_wrap=True, overflow="ellipsis")
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    branches = {name: axis for name, axis in report["axes"].items() if axis["kind"] == BLOCK}
    gone = [name.removesuffix(f".{BLOCK}") for name, axis in branches.items() if not axis["kept"]]
    for name, axis in report["axes"].items():
        if name in branches:
            if not axis["kept"]:
                table.add_row(name.removesuffix(f".{BLOCK}"), _bar(0), "gone")
            continue
        if any(is_within(name, branch) for branch in gone):
            continue
        kept = f"{axis['kept']} of {axis['size']}"
        if masked:
            kept = f"{axis['kept'] / axis['size']:.1%} of {_count(axis['size'])}"
        bar = _bar(axis["kept"] / axis["size"])
        table.add_row(name.removesuffix(".weight") if masked else name, bar, kept)
    if branches:
        stay = len(branches) - len(gone)
        table.add_row("branches", _bar(stay / len(branches)), f"{stay} of {len(branches)}")
    return table


def _bar(fraction: float) -> Text:
    full = round(BAR * fraction)
    return Text("█" * full, style="cyan").append("░" * (BAR - full), style="dim")


def _facts(report: Report) -> Table:
    recipe = report["recipe"]
    images = report["after"]["images"]
    tested = f", {images:,} test images of {recipe['data']}" if images else ""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=8)
    table.add_column()
    table.add_row("budget", _budget(report))
    timing = report["rounds"][-1].get("timing")
    if timing:
        table.add_row("latency", _timing(timing))
    held = report["rounds"][-1].get("footprint")
    if held:
        table.add_row("memory", _footprint(held))
    search = report["rounds"][-1].get("search")
    if search:
        table.add_row("search", _search(search))
    table.add_row(*_proof(report))
    if report.get("sparsity"):
        table.add_row("speed", report["sparsity"]["note"])
    table.add_row(
        "measured",
        f"on {recipe['device']}, threads {recipe['threads']}, seed {recipe['seed']}{tested}",
    )
    if recipe["steps"] > 1:
        table.add_row("steps", _steps(report))
    if recipe["repair"] != "none":
        table.add_row("repair", _gain(report))
    if recipe["finetune"]:
        table.add_row("train", _training(report))
    if report.get("finetune"):
        table.add_row("finetune", _tuning(report["finetune"]))
    table.add_row("seconds", "  ".join(f"{k} {v:.2f}" for k, v in report["seconds"].items()))
    return table


def _level(recipe: Mapping[str, Any]) -> str:
    level = recipe.get("granularity", "slice")  # which reports did not always say
    scope = f"scope {recipe['scope']}, " if recipe["scope"] else ""
    return f"{'' if level == 'slice' else f'granularity {level}, '}{scope}"


def _budget(report: Report) -> str:
    recipe = report["recipe"]
    of_part = f" of {recipe['at']}" if "at" in recipe else ""
    if recipe["ratio"] is None:
        return f"{recipe['by']}: {recipe['granularity']} makes it -{report['got']:.2%}"
    return f"{recipe['by']}{of_part}: asked -{recipe['ratio']:.2%}, got -{report['got']:.2%}"


def _timing(timing: Mapping[str, Any]) -> str:
    """Say what was asked for, predicted and measured."""
    how, saving = timing["conditions"], timing["saving"]
    compiled = ", compiled" if how["compiled"] else ""
    dense = saving["dense"]["median"]
    times = " to ".join(f"{saving[side]['median']:.3g}" for side in ("dense", "small"))
    quartiles = f"{saving['low']:.1%} to {saving['high']:.1%}"
    return (
        f"{times} ms at batch {how['batch']}, {how['dtype']}{compiled}; asked for "
        f"{dense * (1 - timing['asked']):.3g} ms, predicted -{timing['predicted']:.1%}, measured "
        f"-{saving['removed']:.1%} (quartiles {quartiles}) on "
        f"the best of {timing['tries']}"
    )


def _footprint(held: Mapping[str, Any]) -> str:
    """Say what was asked for, predicted and counted."""
    sides = " to ".join(_count(held[side], "B") for side in ("dense", "small"))
    got = 1 - held["small"] / held["dense"]
    return (
        f"peak {sides}: asked -{held['asked']:.1%}, predicted -{held['predicted']:.1%}, "
        f"got -{got:.1%}"
    )


def _search(search: Mapping[str, Any]) -> str:
    """Say what the plans that were tried are worth."""
    scopes = ", ".join(f"{scope} {lost:.2e}" for scope, lost in search["scopes"].items())
    seen = "unseen" if search["unseen"] else "calibration"
    return (
        f"{search['trials']} plans on {search['images']} {seen} training images: divergence "
        f"{search['divergence']:.2e} nats at best; by scope {scopes}"
    )


def _proof(report: Report) -> tuple[str, str]:
    """Say how the small model was proved to be what was planned."""
    parity = report["parity"]
    if parity is None:
        masking = report["rounds"][-1]["masking"]
        tuned = report["recipe"]["finetune"] or report.get("finetune")
        last = report["rounds"][-1]
        repaired = last["repaired"] or last.get("rebuilt")
        then = [word for word, was in (("the repair", repaired), ("training", tuned)) if was]
        trained = f"; {' and '.join(then)} kept the zeros" if then else ""
        return "masks", (
            f"hold: {masking['zeros']:,} weights became zero and {masking['same']:,} other values "
            f"stayed as they were, bit for bit{trained}"
        )
    verdict = "holds" if parity["holds"] else "FAILS"
    noise = " (with noise where the weights hide the cut)" if parity["noisy"] else ""
    rounding = " (in float64, since in float32 rounding alone moves it by more than is allowed)"
    precision = rounding if parity.get("in_float64") else ""
    return "parity", (
        f"{verdict}: differs from the masked model by {parity['difference']:.1e}, where its "
        f"output's scale is {parity['scale']:.2g}{noise}{precision}"
    )


def _repair(recipe: Mapping[str, Any]) -> str:
    """Name the repairs as they are written on the command line."""
    if recipe["repair"] == "none":
        return ""
    names, options = recipe["repair"].split("+"), recipe["repair_options"]
    said = []
    for name in names:
        inside = f"{name}." if len(names) > 1 else ""  # options of several say whose they are
        own = [
            f"{key.removeprefix(inside)}={value}"
            for key, value in options.items()
            if key.startswith(inside)
        ]
        said.append(f"{name}{':' if own else ''}{','.join(own)}")
    return f"repair {'+'.join(said)}, "


def _steps(report: Report) -> str:
    asked = ", ".join(f"{one['asked']:.1%}" for one in report["rounds"])
    of_what = report["recipe"].get("at", "the whole model")
    return f"{report['recipe']['schedule']}: {asked} of {of_what}"


def _gain(report: Report) -> str:
    """Say what the repairs of all rounds did to the layers they touched."""
    rounds = report["rounds"]
    gains = [gain for one in rounds for gain in one["repaired"].values()]
    shifts = [shift for one in rounds for shift in one.get("recalibrated", {}).values()]
    rebuilt = [pair for one in rounds for pair in one.get("rebuilt", {}).items()]
    blocks = [gain for name, gain in rebuilt if name]
    whole = [gain for name, gain in rebuilt if not name]
    said = []
    for found, what in (
        (gains, "refits"),
        (blocks, "blocks on unseen images"),
        (whole, "reconstruction of the whole model on unseen images"),
    ):
        if found:
            sides = ("before", "after")
            before, after = (statistics.mean(g[side] for g in found) for side in sides)
            refits = f"mean error of {len(found)} {what}"
            said.append(f"{refits} {before:.2%} to {after:.2%} of the outputs' variance")
    if shifts:
        said.append(
            f"means of {len(shifts)} BatchNorms were off by {statistics.mean(shifts):.2f} standard "
            "deviations"
        )
    if not said:
        return f"{report['recipe']['repair']}: nothing to repair"
    images = report["recipe"]["calibration"]
    return f"{report['recipe']['repair']} on {images} images: {'; '.join(said)}"


def _training(report: Report) -> str:
    trained = [one["trained"] for one in report["rounds"]]
    last, each = trained[-1], " after each step" if len(trained) > 1 else ""
    return (
        f"{last['epochs']} epochs{each} on {last['images']:,} images, from "
        f"{' and '.join(last['learnt_from'])}: {last['val_top1_before']:.2f} to "
        f"{last['val_top1']:.2f} % on {last['validation']:,} held-out training images"
    )


def _tuning(tuned: Mapping[str, Any]) -> str:
    before, after = tuned["test_top1_before"], tuned["test_top1"]
    gain = f"{before:.2f} to {after:.2f} %" if before is not None else f"{after:.2f} %"
    epochs = f"{tuned['epochs']} epoch{'s' if tuned['epochs'] > 1 else ''}"
    kept = (
        f"kept epoch {tuned['best_epoch']}, best on"
        if tuned["best_epoch"]
        else "no epoch was better than the model that came in, which is kept, on"
    )
    return (
        f"{tuned['recipe']}, {epochs} on {tuned['images']:,} images of "
        f"{tuned['data']}, from {' and '.join(tuned['learnt_from'])}: test top-1 {gain}; {kept} "
        f"{tuned['validation']:,} held-out training images"
    )


def _count(value: float, unit: str = "") -> str:
    """Shorten a number to three significant digits, with a decimal prefix."""
    scaled, prefix = next(
        (value / 1000**power, prefix)
        for power, prefix in enumerate(("", "k", "M", "G"))
        if value / 1000**power < 999.5 or prefix == "G"
    )
    digits = 0 if not prefix else 2 if scaled < 10 else 1 if scaled < 100 else 0
    return f"{scaled:.{digits}f} {prefix}{unit}".rstrip()


def _spread(latency: Mapping[str, float]) -> str:
    digits = 2 if latency["median"] < 10 else 1 if latency["median"] < 100 else 0
    median, low, high = (f"{latency[key]:.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ms ({low}-{high})"
