"""The memory that either tool needs, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

from torch import Tensor, nn

from prunekit import prune
from prunekit.adapters.finding import adapter_for
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import Data, open_data
from prunekit.inputs.feed import InputSpec

from .cells import OURS, SEED, THEIRS
from .pruned import NARROW, Choice
from .side import cut, inform

SCRIPT = Path(__file__).parents[1] / "against_torch_pruning.py"
WEIGHED = ("magnitude", "taylor")  # whose memory is measured, one without and one with images


def peak(model: str, tool: str, criterion: str) -> float:
    """Measure in a fresh process, MB."""
    command = [sys.executable, str(SCRIPT), "--memory-of", f"{model},{tool},{criterion}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak_of(name: str, tool: str, criterion: str) -> float:
    """Return by how much the process grew at its peak while it pruned, MB."""
    model = build(name).model
    example, images = InputSpec.of(model).example(), open_data(zoo.DATA, model)
    # A model of a few kB loads what is loaded on first use.
    toy, x = adapter_for(model).toy()
    use(OURS, toy.eval(), "magnitude", x[:1], None)
    use(THEIRS, toy.eval(), "magnitude", x[:1], None)
    forget_peak()
    before = high_water()
    made = use(tool, model, criterion, example, images)
    peak = high_water() - before
    del made  # until here, so that the result counts
    return peak


def use(
    tool: str, model: nn.Module, criterion: str, example: Tensor, images: Data | None
) -> object:
    if tool == OURS:
        data = {"data": zoo.DATA} if images else {}
        return prune(model, criterion, 0.5, by="macs", example_input=example, seed=SEED, **data)
    drawn = images.calibration if images else None
    informed = inform(model, criterion, drawn, example, SEED)
    return cut(informed, Choice(criterion, "isomorphic", NARROW), (0.5, 0.5), example, SEED)


def forget_peak() -> None:
    """Make the kernel forget how large the process has ever been."""
    Path("/proc/self/clear_refs").write_text("5")


def high_water() -> float:
    # Not ru_maxrss, which a child has from its parent, even through exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1000  # from kB
