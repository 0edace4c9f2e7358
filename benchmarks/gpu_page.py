"""Make a page of what `on_gpu.py` measured.

    python benchmarks/gpu_page.py runs/gpu/gpu.json [--out benchmarks/results/gpu.md]

What is missing from the record, since time ran out or something failed, is missing from the
tables, and told at the end.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from page import markdown
from rich.table import Table

OUT = Path(__file__).parent / "results" / "gpu.md"
Plain = dict[str, Any]
MEGA, GIGA = 1e6, 1e9


def main() -> None:
    args = arguments()
    data = json.loads(args.record.read_text())
    if data["about"]["dry_run"] and args.out == OUT:
        sys.exit(f"gpu_page.py: {args.record} is of a dry run on the CPU; name another --out.")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(data))
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, help="the JSON file that on_gpu.py wrote")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def page(data: Plain) -> str:
    """Return the whole page, of what the record has."""
    about = data["about"]
    card = about["card"]["name"] if about["card"] else about["device"]
    parts = [f"# On a GPU: {card}"]
    if about["dry_run"]:
        parts.append("**A dry run on the CPU: none of these figures mean anything.**")
    parts += [headline(data), facts(data), tests(data.get("tests"))]
    for make in (speedups, latencies, multiples, compiled, sparse, pruning, repair, memory):
        parts += make(data)
    parts += [*training(data), *left_out(data)]
    return "\n\n".join(part for part in parts if part) + "\n"


# -- what the figures travel with -------------------------------------------------------------


def headline(data: Plain) -> str:
    """Say in a sentence what the middle ratio brings at the largest batch, in half precision."""
    chosen = data["about"]["settings"]
    half, middle = chosen["half"], chosen["middle"]
    batch = max(chosen["batches"])
    found = [
        (row["model"], size)
        for row in data.get("latency", ())
        for size in sizes_of(row, data)
        if (row["precision"], row["batch"], size["ratio"]) == (half, batch, middle)
    ]
    if not found:
        return ""
    ranked = sorted(found, key=lambda one: one[1]["speedup"])
    (slowest, low), (fastest, high) = ranked[0], ranked[-1]
    theory = median(size["theory"] for _, size in found)
    return (
        f"Without {middle:.0%} of their MACs, models are {low['speedup']:.2f} ({slowest}) to "
        f"{high['speedup']:.2f} ({fastest}) times as fast in {half}, eager mode, batch {batch}, "
        f"where the MACs alone would give {theory:.2f}."
    )


def facts(data: Plain) -> str:
    """List the command, seed, device and versions, and how it was measured."""
    about, timing = data["about"], data["about"]["timing"]
    few, many = timing["repeats"]
    lines = [f"command: `{about['command']}`, started {about['started']}"]
    lines.append(f"revision: {about['revision'] or 'unknown'}, seed: {about['settings']['seed']}")
    if about["card"]:
        card = about["card"]
        lines.append(
            f"card: {card['name']}, {card['memory_bytes'] / GIGA:.0f} GB, compute capability "
            f"{card['capability']}, driver {card['driver'] or 'unknown'}"
        )
    lines.append(f"CUDA {about['cuda']}, cuDNN {about['cudnn']}")
    lines.append(f"host: {about['processor']}, {about['cores']} cores, {about['threads']} threads")
    lines.append("versions: " + ", ".join(f"{k} {v}" for k, v in about["versions"].items()))
    lines.append(
        f"latency: median (quartiles) of {few} to {many} forward passes, no more after "
        f"{timing['enough_seconds']:g} seconds, after {timing['warm_up']} to warm up; the models "
        "of a row are timed in turn, and the device is waited for after each pass"
    )
    lines.append(
        "models: random weights, timm's own sizes; pruned by magnitude, every axis alike (MLP "
        "channels and heads), by MACs. Speed depends on the shapes, not on the values"
    )
    return "\n".join(f"- {line}" for line in lines)


def tests(found: Plain | None) -> str:
    """Say how the CUDA tests went."""
    if not found or not found["found"]:  # stopped before the first result
        return "The CUDA tests were not run, or left no record."
    skipped, failures = sum(found["skipped"].values()), len(found["failed"])
    told = (
        f"Of {found['found']} CUDA tests, {found['found'] - skipped - failures} passed, "
        f"{failures} failed and {skipped} were skipped, in {found['seconds']:.0f} seconds of tests."
    )
    reasons = [f"- skipped {count}: {why}" for why, count in found["skipped"].items()]
    failed = [f"- failed: `{name}`: {why}" for name, why in found["failed"].items()]
    return "\n".join([told, "", *failed, *reasons]).strip()


def left_out(data: Plain) -> list[str]:
    """Say what is missing, and why."""
    table = Table("section", "cells done", "planned", "seconds")
    for one in data["sections"]:
        done, planned = one["done"], one["planned"]
        table.add_row(one["name"], str(done), str(planned), f"{one['seconds']:.0f}")
    lines = [f"- {one['section']}: {one['cell']}: {one['why']}" for one in data["skipped"]]
    return titled("What was measured, and what was not", NOTES["left out"], table, "\n".join(lines))


# -- speed ------------------------------------------------------------------------------------


def speedups(data: Plain) -> list[str]:
    """Set what was gained beside what the MACs would give."""
    columns = [
        (batch, precision)
        for batch in data["about"]["settings"]["batches"]
        for precision in data["about"]["settings"]["precisions"]
    ]
    heads = [f"{precision}, batch {batch}" for batch, precision in columns]
    table = Table("model", "MACs removed", "in theory", *heads)
    cells: dict[tuple[str, float], Plain] = {}
    for row in data.get("latency", ()):
        for size in sizes_of(row, data):
            found = cells.setdefault((row["model"], size["ratio"]), {"theory": size["theory"]})
            part = size["speedup"] / size["theory"]
            found[row["batch"], row["precision"]] = f"{size['speedup']:.2f} ({part:.0%})"
    for (model, ratio), found in sorted(cells.items()):
        entries = [found.get(column, "-") for column in columns]
        table.add_row(model, f"{ratio:.0%}", f"{found['theory']:.2f}", *entries)
    return titled("Realised against theoretical speed-up", NOTES["speedups"], table)


def latencies(data: Plain) -> list[str]:
    """List the times that the speed-ups are of."""
    ratios = data["about"]["settings"]["ratios"]
    table = Table("model", "precision", "batch", "dense", *(f"-{ratio:.0%}" for ratio in ratios))
    for row in data.get("latency", ()):
        table.add_row(*labels(row), spread(row["dense"]), *map(spread, row["pruned"]))
    return titled("Latency in eager mode, ms", "", table)


def multiples(data: Plain) -> list[str]:
    """Compare multiples of kept sizes at one ratio."""
    chosen = data["about"]["settings"]
    heads = [f"multiple {m}" for m in (chosen["multiple"], *chosen["other_multiples"])]
    table = Table("model", "precision", "batch", "dense, ms", *heads)
    for row in data.get("multiples", ()):
        entries = [f"{spread(size)}, {size['speedup']:.2f}x" for size in sizes_of(row, data)]
        table.add_row(*labels(row), spread(row["dense"]), *entries)
    return titled("Multiples of kept sizes", NOTES["multiples"].format(**chosen), table)


def compiled(data: Plain) -> list[str]:
    """Compare compiled models, and set them beside those in eager mode."""
    eager = {tuple(labels(row)): row for row in data.get("latency", ())}
    table = Table(
        "model", "precision", "batch", "dense, ms", "pruned, ms", "speed-up", "in eager mode",
        "compiling, s",
    )  # fmt: skip
    for row in data.get("compiled", ()):
        (size,), ratio = sizes_of(row, data), row["pruned"][0]["ratio"]
        plain = eager.get(tuple(labels(row)))
        beside = [one for one in sizes_of(plain, data) if one["ratio"] == ratio] if plain else []
        table.add_row(
            *labels(row), spread(row["dense"]), spread(size), f"{size['speedup']:.2f}",
            f"{beside[0]['speedup']:.2f}" if beside else "-",
            " + ".join(f"{seconds:.0f}" for seconds in row["compile_seconds"]),
        )  # fmt: skip
    return titled("torch.compile", NOTES["compiled"].format(**data["about"]["settings"]), table)


def sparse(data: Plain) -> list[str]:
    """Compare 2:4 with slices at equal MACs."""
    kinds = {"masked": "2:4, masked", "semi_structured": "2:4, semi-structured", "sliced": "slices"}
    table = Table("model", "precision", "batch", "MACs removed", "dense, ms", *kinds.values())
    for row in data.get("sparse", ()):
        removed = [row["macs_removed_by_2_4"], row["macs_removed_by_slices"]]
        entries = [
            f"{spread(row[kind])}, {row['dense']['median'] / row[kind]['median']:.2f}x"
            if kind in row
            else "-"
            for kind in kinds
        ]
        told = " and ".join(f"{part:.1%}" for part in removed)
        table.add_row(*labels(row), told, spread(row["dense"]), *entries)
    return titled("2:4 beside slices at equal MACs", NOTES["sparse"], table)


# -- pruning, memory, training ----------------------------------------------------------------


def pruning(data: Plain) -> list[str]:
    """List how long `prune` took for each size."""
    steps = ("trace", "score", "plan", "silence", "shrink", "verify", "measure")
    heads = ("model", "MACs removed", "multiple", "M params", "G MACs", "parity", *steps, "whole")
    table = Table(*heads)
    for row in data.get("pruned", ()):
        table.add_row(
            row["model"], f"{row['got']:.1%}", str(row["multiple"]),
            f"{row['params_before'] / MEGA:.1f} to {row['params'] / MEGA:.1f}",
            f"{row['macs_before'] / GIGA:.2f} to {row['macs'] / GIGA:.2f}",
            f"{row['parity']:.0e}",
            *(f"{row['seconds'].get(step, 0):.2f}" for step in steps),
            f"{row['whole_seconds']:.2f}",
        )  # fmt: skip
    return titled("prune(), seconds", NOTES["pruning"], table)


def repair(data: Plain) -> list[str]:
    """List what a repair by least squares costs."""
    table = Table(
        "model", "images", "layers", "mean error", "lstsq, s", "whole prune(), s", "peak memory",
        "over the weights",
    )  # fmt: skip
    for row in data.get("repair", ()):
        memory, weights = row["peak_bytes"], row["weight_bytes"]
        table.add_row(
            row["model"], str(row["images"]), str(row["layers"]),
            f"{row['error_before']:.2%} to {row['error_after']:.2%}",
            f"{row['seconds']['repair']:.1f}", f"{row['whole_seconds']:.1f}", size_of(memory),
            f"{memory / weights:.1f}x" if memory else "-",
        )  # fmt: skip
    return titled("prune(repair='lstsq')", NOTES["repair"], table)


def memory(data: Plain) -> list[str]:
    """List what a forward pass needs on top of the model, and the model itself."""
    ratios = data["about"]["settings"]["ratios"]
    heads = ("dense", *(f"-{ratio:.0%}" for ratio in ratios))
    table = Table("model", "precision", "batch", *heads)
    for row in data.get("memory", ()):
        entries = [
            f"{size_of(one['peak_bytes'])} + {size_of(one['weight_bytes'])}"
            for one in (row["dense"], *row["pruned"])
        ]
        table.add_row(*labels(row), *entries)
    return titled("Peak memory of a forward pass, and the weights", "", table)


def training(data: Plain) -> list[str]:
    """Compare training steps."""
    heads = ("model", "batch", "dense, ms", "pruned, ms", "speed-up", "dense peak", "pruned peak")
    table = Table(*heads)
    for row in data.get("training", ()):
        sides = row["dense"], row["pruned"]
        times = [median(side["step_ms"]) for side in sides]
        steps = [", ".join(f"{ms:.1f}" for ms in side["step_ms"]) for side in sides]
        peaks = [size_of(side["peak_bytes"]) for side in sides]
        ratio = f"{times[0] / times[1]:.2f}"
        table.add_row(row["model"], str(row["batch"]), *steps, ratio, *peaks)
    note = NOTES["training"].format(**data["about"]["settings"])
    return titled("Two training steps in bfloat16", note, table)


# -- helpers ----------------------------------------------------------------------------------


def sizes_of(row: Plain, data: Plain) -> Iterable[Plain]:
    """Return what a row has pruned, with its speed-up and the one that its MACs would give."""
    macs = {
        (one["model"], one["ratio"], one["multiple"]): one["macs_before"] / one["macs"]
        for one in data["pruned"]
    }
    return [
        {
            **size,
            "speedup": row["dense"]["median"] / size["median"],
            "theory": macs[row["model"], size["ratio"], size["multiple"]],
        }
        for size in row["pruned"]
    ]


def labels(row: Plain) -> Sequence[str]:
    return row["model"], row["precision"], str(row["batch"])


def spread(found: Plain) -> str:
    """Return a median with its quartiles."""
    return f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


def size_of(count: int | None) -> str:
    return "-" if count is None else f"{count / MEGA:,.1f} MB"


def titled(title: str, note: str, table: Table, after: str = "") -> list[str]:
    """Return a section, or nothing if its table is empty."""
    if not table.row_count:
        return []
    return [part for part in (f"## {title}", note, markdown(table), after) if part]


NOTES = {
    "speedups": """\
Times faster than the dense model, and in brackets the part of the theoretical speed-up that this
is. The theoretical one divides the MACs of the dense model by those of the pruned one. Eager
mode.""",
    "multiples": """\
All without {middle:.0%} of their MACs. A multiple is of MLP channels; heads are whole anyway.""",
    "compiled": """\
Backend {compiler}, static shapes, without {middle:.0%} of the MACs. Compiling takes too long to
do more than this in the time there is: *compiling* is the first pass of the dense model and of
the pruned one.""",
    "sparse": """\
*masked* multiplies the zeros; *semi-structured* is the same model after `to_semi_structured`. The
removed MACs are those that the zeros imply, and those that slices removed in fact.""",
    "pruning": """\
`prune(model, "magnitude", ratio, by="macs", scope="axis", multiple=...)` on the device; the steps
are those of `Result.seconds`. *parity* is the largest difference from the masked model, of its
output's scale; at most 1e-04 is allowed.""",
    "repair": """\
`prune(model, "dimap", ..., repair="lstsq")` with ten classes, on images of fashion-mnist-mini made
as large as the model wants them. The mean error is over all refitted layers, relative to their
outputs' variance. Memory is the peak of all of `prune`, on top of the dense model.""",
    "training": """\
Forward and backward pass under autocast, and a step of AdamW, of images of noise; after one step
to warm up. The pruned model is without {middle:.0%} of its MACs. The peak includes activations,
gradients and the optimizer's state, but not the weights.""",
    "left out": """\
Every section has a share of the time. It measures what matters most first; what did not fit, or
failed, is listed below the table.""",
}

if __name__ == "__main__":
    main()
