"""Bench: prunes with either tool, and finds out what it costs."""

import textwrap
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from prunekit import PruneError, prune
from prunekit.adapters.finding import adapter_for
from prunekit.inputs import zoo
from prunekit.inputs.architectures import build
from prunekit.inputs.data import batches, open_data
from prunekit.inputs.feed import InputSpec
from prunekit.measuring.accuracy import accuracy
from prunekit.request import configure

from .cells import OURS, SEED, THEIRS, Cell, Line
from .pruned import CALIBRATION, BrokenError, Choice, Informed
from .search import search
from .side import FIX_UPS, inform, prune_once
from .tables import exactness

BATCH = 100  # images in a forward pass


class Bench:
    """One model, its test images, and what importances have seen of it."""

    def __init__(self, name: str):
        self.name, self.model = name, build(name).model
        self.example = InputSpec.of(self.model).example()
        self.images = open_data(zoo.DATA, self.model)
        self.test = list(batches(self.images.test, BATCH))
        self.dense = accuracy(self.model, self.test)[0]
        self.informed: dict[str, Informed] = {}
        self.seen: dict[tuple, str] = {}  # different ways often lead to the same model
        prune(name, "magnitude", 0.5, by="macs", seed=SEED)  # loads what is loaded on first use

    def run(self, cell: Cell) -> Line:
        return self.ours(cell) if cell.tool == OURS else self.theirs(cell)

    def ours(self, cell: Cell) -> Line:
        scoring, found = 0.0, configure(cell.criterion, SEED)

        def timed(axes, **options):
            nonlocal scoring
            start = time.perf_counter()
            scores = found.function(axes, **options)
            scoring += time.perf_counter() - start
            return scores

        try:
            result = prune(
                self.name,
                replace(found, function=timed),
                cell.target,
                by="macs",
                repair=cell.repair,
                axes=[kind for kind in cell.axes.split("+") if kind in self.kinds()],
                data=zoo.DATA,
                calibration=CALIBRATION,
                seed=SEED,
            )
        except PruneError as error:
            return Line(cell, problem=str(error))
        spent = result.seconds
        made = (OURS, *result.plan.kept.values(), cell.repair, cell.repair != "none" and cell)
        return Line(
            cell,
            cell.target,
            result.got,
            self.right(result.model, made),
            result.parity.difference / result.parity.scale,
            informing=spent["score"] - scoring + spent.get("repair", 0.0),
            cutting=scoring + spent["trace"] + spent["plan"] + spent["shrink"],
            others=spent["silence"] + spent["verify"] + spent["measure"],
        )

    def kinds(self) -> tuple[str, ...]:
        return adapter_for(self.model).kinds

    def theirs(self, cell: Cell) -> Line:
        informed = self.inform(cell.criterion)
        choice = Choice(cell.criterion, cell.scheme, cell.axes, cell.fix_up)
        found = search(informed, choice, cell.target, self.example, SEED)
        problem = next(iter(found.problems.values()), "")
        if found.best is None:
            return Line(cell, tries=found.tries, others=found.seconds, problem=problem)
        best = found.best
        return Line(
            cell,
            found.ratios[0],
            best.macs,
            self.right(best.model, (THEIRS, best.removals, cell.fix_up)),
            best.difference,
            informing=informed.seconds,
            cutting=best.seconds,
            others=found.seconds - best.seconds,
            tries=found.tries,
            problem=problem,
            heads=found.ratios[1],
        )

    def inform(self, importance: str) -> Informed:
        if importance not in self.informed:
            images = self.images.calibration
            self.informed[importance] = inform(self.model, importance, images, self.example, SEED)
        return self.informed[importance]

    @torch.inference_mode()
    def right(self, model: nn.Module, made: tuple) -> str:
        """Return which test images the model gets right, as bits in hexadecimal."""
        if made not in self.seen:
            found = torch.cat([model(x).argmax(1) == y for x, y in self.test])
            self.seen[made] = np.packbits(found.numpy()).tobytes().hex()
        return self.seen[made]

    def mending(self, axes: str) -> tuple[str, ...]:
        """Say what each way to fix up leaves, at half of the channels."""
        said = []
        for fix_up in FIX_UPS:
            choice = Choice("magnitude", "isomorphic", axes, fix_up)
            try:
                made = prune_once(self.inform("magnitude"), choice, 0.5, self.example, SEED)
            except BrokenError as error:
                said.append(textwrap.shorten(str(error), 70, placeholder=" ..."))
            else:
                said.append(f"runs, {exactness(made.difference)}")
        return (self.name, axes, *said)
