"""How long does pruning take, and how much memory, next to torch-pruning's own pruner?

    python benchmarks/engine_speed.py [--models ...] [--threads 1] [--repeats 3]

Both prune timm models with random weights, in turns in one process. prunekit is the whole of
`prune(model, "dimap", 0.5)`, without evaluation. torch-pruning is `BasePruner` built and stepped
once, with group magnitude, ranked globally, heads and head dimensions of attention included and the
classifier left out; only time and memory count, so what it leaves need not run. Peak memory
is measured in a fresh process per model and tool. Writes benchmarks/results/engine_speed.md.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch_pruning as tp
from page import facts, markdown
from resident import POLL, extra_bytes
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from prunekit import Result, prune
from prunekit.adapters.base import select
from prunekit.adapters.finding import adapter_for
from prunekit.inputs.feed import InputSpec
from prunekit.planning.left import positions_left
from prunekit.tracing.graph import trace

SCALED = "+scales"  # a model whose layer scales are like trained ones
SCALE = 0.2
MODELS = (
    "swin_small_patch4_window7_224,swin_base_patch4_window7_224,vit_base_patch16_224,"
    f"convnext_base,convnext_base{SCALED}"
)
OUT = Path(__file__).parent / "results" / "engine_speed.md"
STEPS = ("trace", "score", "plan", "shrink", "silence", "verify", "measure")
DECIDE_AND_CUT = STEPS[:4]
RATIO = 0.5
TP_RATIO = 0.42  # of channels: about half the parameters of Swin, see the table
NOTE = f"""\
Seconds are of processor time, all threads together, so that a busy machine matters less. Weights
are random. The steps are `Result.seconds`; both tools run in turns, and all figures are
medians of the repeats. *whole* is all of `prune`, without evaluation. *engine* is trace + score +
plan + shrink, which is what torch-pruning does too. *whole* adds what it does not do: *silence*
and *verify* run the masked and the small model, *measure* counts MACs and parameters of both.
*slicing* is index_select of every tensor that the plan cuts, and nothing else. The ratios divide
torch-pruning's build + step; *at most* is that ratio if nothing took time but the two forward
passes that parity takes, of the large and the small model.

torch-pruning prunes {TP_RATIO:.0%} of the channels of every sort, the width included, which is
comparable in parameters (see *removed*); the two do not remove the same slices.

Peak memory is the resident set (/proc/self/statm, polled by a thread every {1000 * POLL:g} ms),
less its level just before, as a multiple of the bytes of parameters and buffers. It includes
the activations of a forward pass of one image. Beforehand the process
prunes a model of the zoo, so that libraries that load on first use do not count. Random
ConvNeXt V1 weights may hide the cut, since layer scales begin at 1e-6: there the comparison is
made twice, with noise the second time, which costs memory and time. `{SCALED}` sets these scales to
{SCALE}, as trained ones are in size, so that it is made once."""


@dataclass(frozen=True)
class Ours:
    """Seconds that prunekit took, and the fraction of parameters it removed."""

    steps: dict[str, float]
    whole: float
    slicing: float
    passes: float
    removed: float

    @property
    def engine(self) -> float:
        return sum(self.steps[step] for step in DECIDE_AND_CUT)


@dataclass(frozen=True)
class Theirs:
    """Seconds that torch-pruning took, and what it removed, or why it failed."""

    build: float
    step: float
    removed: float
    problem: str = ""

    @property
    def whole(self) -> float:
        return self.build + self.step


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    time.perf_counter = time.process_time  # which is the clock of Result.seconds, too
    if args.memory_of:
        print(json.dumps(peak_of(args.memory_of, args.tool, args.seed)))
        return
    prune("swin_micro", "dimap", RATIO)  # loads what is loaded on first use
    rows = []
    for name in args.models.split(","):
        model = build(name, args.seed)
        ours, theirs = in_turns(model, args.repeats)
        peaks = [memory(name, tool, args) for tool in ("prunekit", "torch-pruning")]
        rows.append((name, params(model), ours, theirs, *peaks))
        show(rows[-1])
    tables = [steps_table(rows), comparison_table(rows), memory_table(rows)]
    for table in tables:
        Console(width=150).print(table)
    print(growth(rows))
    write(
        args,
        tables,
        growth(rows),
        [f"- {row[0]}: {row[3].problem}" for row in rows if row[3].problem],
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--memory-of", help="only print one model's peak memory, as JSON")
    parser.add_argument("--tool", choices=("prunekit", "torch-pruning"), default="prunekit")
    return parser.parse_args()


def build(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(name.removesuffix(SCALED)).eval()
    if name.endswith(SCALED):
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("gamma"):
                parameter.data.fill_(SCALE)
    return model


def params(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- time ------------------------------------------------------------------------------


def in_turns(model: nn.Module, repeats: int) -> tuple[Ours, Theirs]:
    """Prune several times with both, one after the other; every figure is the median of its own."""
    runs, theirs = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        result = prune(model, "dimap", RATIO)
        runs.append((time.perf_counter() - start, result))
        theirs.append(time_torch_pruning(copy.deepcopy(model)))
    steps = {step: statistics.median(r.seconds[step] for _, r in runs) for step in STEPS}
    whole = statistics.median(seconds for seconds, _ in runs)
    slicing, passes = time_slicing(model, result, repeats), time_passes(model, result, repeats)
    took = {part: statistics.median(getattr(t, part) for t in theirs) for part in ("build", "step")}
    return Ours(steps, whole, slicing, passes, result.got), replace(theirs[-1], **took)


@torch.inference_mode()
def time_passes(model: nn.Module, result: Result, repeats: int) -> float:
    """Time one forward pass of the large and the small model, which a proof takes at least."""
    x = InputSpec.of(model).example()

    def run() -> None:
        model(x)
        result.model(x)

    return statistics.median(seconds(run) for _ in range(repeats))


def time_slicing(model: nn.Module, result: Result, repeats: int) -> float:
    """Time merely slicing the tensors that the plan cuts."""
    adapter = adapter_for(model)
    specs = select(adapter.axes(model), adapter.default_kinds, adapter)
    axes = trace(model, specs, adapter, InputSpec.of(model).example())
    left = positions_left(axes, result.plan)
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    tensors |= dict(model.named_buffers())

    def slice_all() -> None:
        for name, dims in left.items():
            sliced = tensors[name]
            for dim, positions in dims.items():
                sliced = sliced.index_select(dim, positions)

    return statistics.median(seconds(slice_all) for _ in range(repeats))


def time_torch_pruning(model: nn.Module) -> Theirs:
    """Build the pruner and step once; `model` is consumed. A failure is part of the answer."""
    before, took = params(model), {"build": float("nan"), "step": float("nan")}
    try:
        start = time.perf_counter()
        pruner = torch_pruner(model)
        took["build"] = time.perf_counter() - start
        took["step"] = seconds(pruner.step)
    except Exception as error:
        return Theirs(**took, removed=float("nan"), problem=f"{type(error).__name__}: {error}")
    return Theirs(**took, removed=1 - params(model) / before)


def torch_pruner(model: nn.Module) -> Any:
    """Build torch-pruning's pruner as its transformer examples do, but ranked globally."""
    attentions = [part for part in model.modules() if hasattr(part, "qkv")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bare parameters that it guesses a dimension for
        return tp.pruner.BasePruner(
            model,
            InputSpec.of(model).example(),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=TP_RATIO,
            head_pruning_ratio=TP_RATIO,
            prune_num_heads=True,
            prune_head_dims=True,
            num_heads={part.qkv: part.num_heads for part in attentions},
            ignored_layers=[model.get_classifier()],
            # Fresh ones, since its defaults are shared by all pruners, and written to.
            pruning_ratio_dict={},
            head_pruning_ratio_dict={},
            in_channel_groups={},
            out_channel_groups={},
            customized_pruners={},
            unwrapped_parameters=[],
            channel_groups={},
        )


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# --- memory ----------------------------------------------------------------------------


def memory(name: str, tool: str, args: argparse.Namespace) -> float:
    """Measure in a fresh process; NaN if it failed."""
    command = [sys.executable, __file__, "--memory-of", name, "--tool", tool]
    command += ["--threads", str(args.threads), "--seed", str(args.seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"memory of {tool} on {name} failed: {done.stderr.strip().splitlines()[-1]}")
        return float("nan")
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(name: str, tool: str, seed: int) -> float:
    """Return the peak of resident memory on top of what was there, in multiples of the model."""
    model = build(name, seed)
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    prune("swin_micro", "dimap", RATIO)
    if tool == "prunekit":
        peak = extra_bytes(lambda: prune(model, "dimap", RATIO))
    else:
        peak = extra_bytes(lambda: torch_pruner(model).step())
    return peak / weights


# --- what is shown ---------------------------------------------------------------------


def steps_table(rows: list) -> Table:
    table = Table(
        "model",
        "M params",
        *STEPS,
        "whole",
        "passes",
        "slicing",
        title="prunekit, seconds",
        box=box.SIMPLE,
    )
    for name, count, ours, *_ in rows:
        steps = [ours.steps[step] for step in STEPS]
        figures = [*steps, ours.whole, ours.passes, ours.slicing]
        table.add_row(name, f"{count / 1e6:.1f}", *[f"{figure:.2f}" for figure in figures])
    return table


def comparison_table(rows: list) -> Table:
    heads = (
        "engine",
        "whole",
        "removed",
        "torch-pruning build",
        "step",
        "removed",
    )
    ratios = ("ratio to engine", "ratio to whole", "at most")
    table = Table(
        "model", *heads, *ratios, title="prunekit next to torch-pruning, seconds", box=box.SIMPLE
    )
    for name, _, ours, theirs, *_ in rows:
        table.add_row(
            name,
            *[f"{figure:.2f}" for figure in (ours.engine, ours.whole)],
            f"{ours.removed:.1%}",
            f"{theirs.build:.2f}",
            f"{theirs.step:.2f}",
            f"{theirs.removed:.1%}",
            f"{theirs.whole / ours.engine:.1f}x",
            f"{theirs.whole / ours.whole:.1f}x",
            f"{theirs.whole / ours.passes:.1f}x",
        )
    return table


def memory_table(rows: list) -> Table:
    columns = ("model", "M params", "prunekit", "torch-pruning")
    table = Table(*columns, title="Peak extra memory, multiples of the weights", box=box.SIMPLE)
    for name, count, _, _, ours, theirs in rows:
        table.add_row(name, f"{count / 1e6:.1f}", f"{ours:.2f}", f"{theirs:.2f}")
    return table


def growth(rows: list) -> str:
    """Fit whole seconds to millions of parameters, and give each model's own quotient."""
    size = np.array([count / 1e6 for _, count, *_ in rows])
    lines = []
    for tool, took in (
        ("prunekit, whole", np.array([ours.whole for _, _, ours, *_ in rows])),
        ("prunekit, engine", np.array([ours.engine for _, _, ours, *_ in rows])),
        ("torch-pruning", np.array([theirs.whole for _, _, _, theirs, *_ in rows])),
    ):
        each = ", ".join(
            f"{row[0]} {s / m:.4f}" for row, s, m in zip(rows, took, size, strict=True)
        )
        lines.append(f"- {tool}, seconds per million parameters: {each}")
        if len(rows) > 1:
            slope, start = np.polyfit(size, took, 1)
            lines[-1] += f"; line {start:.2f} + {slope:.4f} x millions"
    return "\n".join(lines)


def show(row: tuple) -> None:
    name, count, ours, theirs, *peaks = row
    print(
        f"{name}  {count / 1e6:.1f} M  engine {ours.engine:.2f} s  whole {ours.whole:.2f} s  "
        f"torch-pruning {theirs.whole:.2f} s {theirs.problem}  "
        f"peaks {' and '.join(f'{peak:.2f}' for peak in peaks)} x weights",
        flush=True,
    )


def write(args: argparse.Namespace, tables: list[Table], lines: str, problems: list[str]) -> None:
    """Write the tables with what their figures must travel with."""
    parts = [
        "# Speed and memory of the engine, next to torch-pruning's pruner",
        NOTE,
        facts(args.seed, args.threads),
        *[f"## {table.title}\n\n{markdown(table)}" for table in tables],
        f"## Growth\n\n{lines}",
    ]
    if problems:
        parts.append("## Failures of torch-pruning\n\n" + "\n".join(problems))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
