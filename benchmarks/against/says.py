"""What the comparison says, in sentences."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from .cells import OURS, SAME_OUTPUT, THEIRS, Line
from .duels import accuracy_said, all_duels
from .memory import WEIGHED
from .pruned import CLOSE, NARROW, WIDE


def says(lines: Sequence[Line], memory: dict[tuple[str, str, str], float]) -> list[str]:
    plain = [line for line in lines if line.cell.repair == "none"]
    theirs = [line for line in plain if line.cell.tool == THEIRS]
    ours = [line for line in plain if line.cell.tool == OURS]
    return [
        *accuracy_said(all_duels(plain)),
        like_said(plain),
        budgets_said(ours, theirs),
        exact_said(theirs),
        seconds_said(ours, theirs),
        memory_said(memory),
    ]


SAME_NAMES = {"fisher": "hessian"}  # squared gradients, under two names


def like_said(lines: Sequence[Line]) -> str:
    """Compare criteria of the same name, each side in the scope that the tool recommends."""
    wins = {OURS: 0, THEIRS: 0}
    gaps = []
    by_cell = {line.cell: line for line in lines if line.ranked}
    for cell, line in by_cell.items():
        name = SAME_NAMES.get(cell.criterion, cell.criterion)
        other = replace(cell, tool=THEIRS, criterion=name, scheme="isomorphic")
        if cell.tool == OURS and name != "random" and other in by_cell:
            gaps.append(line.top1 - by_cell[other].top1)
            wins[OURS if gaps[-1] > 0 else THEIRS] += 1
    if not gaps:
        return "- No two criteria of the same name met the same budget."
    return (
        f"- Criteria of the same name (fisher for hessian, random left out), prunekit's in its own "
        f"scope and torch-pruning's isomorphic: prunekit's keeps more top-1 in {wins[OURS]} of "
        f"{len(gaps)} pairs, torch-pruning's in {wins[THEIRS]}; the median difference is "
        f"{statistics.median(gaps):+.2f} points, from {min(gaps):+.2f} to {max(gaps):+.2f}."
    )


def budgets_said(ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    def missed(lines: Sequence[Line]) -> str:
        return f"{sum(not line.ranked for line in lines)} of {len(lines)}"

    tries = statistics.median(line.tries for line in theirs)
    return (
        f"- Budgets missed by more than {CLOSE:.1%} of the MACs: torch-pruning {missed(theirs)}, "
        f"after a median of {tries:g} tries; prunekit {missed(ours)}, in one."
    )


def exact_said(theirs: Sequence[Line]) -> str:
    def inexact(axes: str, attentive: bool) -> str:
        here = [
            line
            for line in theirs
            if line.cell.axes == axes
            and line.cell.fix_up != "folded"
            and (line.cell.model != "convnext_micro") == attentive
        ]
        return f"{sum(not line.difference <= SAME_OUTPUT for line in here)} of {len(here)}"

    broken = sum(not line.right for line in theirs)
    return (
        f"- After mending, torch-pruning left no model that runs in {broken} of {len(theirs)} "
        "cells, and one that computes something else than the masked model, where there is "
        f"attention, in {inexact(NARROW, True)} with {NARROW} and {inexact(WIDE, True)} with "
        f"{WIDE}, where the softmax has another temperature; on convnext_micro in "
        f"{inexact(NARROW, False)} and {inexact(WIDE, False)}. prunekit refuses to return such a "
        "model."
    )


def seconds_said(ours: Sequence[Line], theirs: Sequence[Line]) -> str:
    def medians(name: str, model: str) -> str:
        each = [
            statistics.median(getattr(x, name) for x in side if x.right and x.cell.model == model)
            for side in (ours, theirs)
        ]
        return f"{model} {each[0]:.2f} and {each[1]:.2f}"

    models = dict.fromkeys(line.cell.model for line in ours)
    cutting = "; ".join(medians("cutting", model) for model in models)
    others = "; ".join(medians("others", model) for model in models)
    return (
        f"- Median seconds of one cut, prunekit's and torch-pruning's: {cutting}. Besides, for "
        f"prunekit's proof and count, and for torch-pruning's other tries: {others}."
    )


def memory_said(memory: dict[tuple[str, str, str], float]) -> str:
    said = [
        f"{model} {criterion} {memory[model, OURS, criterion]:.0f} and "
        f"{memory[model, THEIRS, criterion]:.0f}"
        for model in dict.fromkeys(model for model, *_ in memory)
        for criterion in WEIGHED
    ]
    return f"- Peak memory in MB, prunekit's and torch-pruning's: {'; '.join(said)}."
