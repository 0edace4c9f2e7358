"""Findings as a real comparison would give them, made by a formula: what the pages are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from prunekit.comparison.findings import (
    Agreement,
    Column,
    Cut,
    Dense,
    Findings,
    Kept,
    Met,
    Origin,
    Pair,
    Row,
    Scoring,
    Sensed,
    Standing,
)
from prunekit.comparison.ranking import rankings

AXES = ("mlp", "head")
KINDS = {"mlp": 0.45, "attn.head": 0.6}
DENSE = {  # params, MACs, top-1, ms of a batch of 8, blocks
    "swin_micro": (1_360_458, 8_380_000, 91.13, 4.41, 10),
    "vit_micro": (505_482, 27_800_000, 88.47, 7.32, 12),
    "convnext_micro": (1_110_234, 12_600_000, 92.35, 5.1, 9),
}
WORTH = {  # how much of the damage of a random cut each criterion does
    "random": 1.0,
    "magnitude": 0.55,
    "lamp": 0.2,
    "dimap": 0.33,
    "fpgm": 0.6,
    "taylor": 0.25,
    "fisher": 0.24,
    "wanda": 0.5,
    "flap": 0.21,
    "vbp": 0.42,
}
SCOPES = {"lamp": "model", "dimap": "kind", "flap": "model"}


def sample(
    archs: tuple[str, ...] = tuple(DENSE),
    criteria: tuple[str, ...] = tuple(WORTH),
    ratios: tuple[float, ...] = (0.3, 0.5, 0.7),
    repairs: tuple[str, ...] = ("none", "lstsq"),
    recipes: tuple[str, ...] = ("none", "quick"),
) -> Findings:
    """Make findings of a grid; some rows of a large one missed the budget or have a problem."""
    noise = np.random.default_rng(0)
    columns = [
        Column(arch, AXES, "params", ratio, repair, recipe)
        for arch in archs
        for repair in repairs
        for recipe in recipes
        for ratio in ratios
    ]
    cells = len(columns) * len(criteria)
    standings = tuple(_standing(column, criteria, noise) for column in columns)
    return Findings(
        answer="On all three models lamp and flap lose the least, and no test tells them apart; "
        "after the lstsq repair only random and magnitude are behind by more than a point.",
        origin=_origin(criteria, cells),
        dense=tuple(_dense(arch) for arch in archs),
        standings=standings,
        rankings=rankings(standings),
        agreements=tuple(_agreements(archs, criteria, ratios, noise)),
        kept=tuple(_kept(arch, ratio, c, noise) for arch in archs for ratio in ratios
                   for c in criteria),
        scoring=tuple(
            Scoring(arch, c, 3 * WORTH.get(c, 0.4), 0 if c == "magnitude" else 512, 40_000_000)
            for arch in archs
            for c in criteria
        ),
        met=(
            Met(Column("vit_micro", AXES, "latency", 0.3, "none", "none"), "lamp", 0, 8,
                predicted=0.31, measured=0.29, low=0.25, high=0.33, miss=0.014),
        ),
        sensed=(
            Sensed("vit_micro", "lamp", "lstsq", "fashion-mnist-mini", 256, (
                Cut("blocks.0.mlp", 0.5, 1.5e-3, 0.99, 0.03),
                Cut("blocks.0.mlp", 0.75, 4e-3, 0.98, 0.05),
                Cut("blocks.0.attn.block", 1.0, 0.2, 0.9, 0.033),
            )),
        ),
    )  # fmt: skip


def tiny() -> Findings:
    """Make findings of one cell, which has a problem, of a grid that has hardly begun."""
    column = Column("vit_micro", AXES, "params", 0.5, "none", "none")
    row = Row("taylor", "axis", (0,), False, problem="Criterion 'taylor' needs labels.")
    standing = Standing(column, (row,), (), "Nothing can be ranked.")
    origin = replace(_origin(("taylor",), 4), missing=3)
    return Findings("There is no answer yet.", origin, (), (standing,), (), (), ())


def _origin(criteria: tuple[str, ...], cells: int) -> Origin:
    return Origin(
        command="prunekit compare --arch swin_micro,vit_micro,convnext_micro --criterion "
        f"{','.join(criteria)} --ratio 0.3,0.5,0.7 --repair none,lstsq --finetune none,quick "
        "--seeds 0,1,2 --out runs/comparison",
        made="2026-11-22T19:54:55+00:00",
        seeds=(0, 1, 2),
        calibration=512,
        versions={"prunekit": "0.1.0", "torch": "2.9.1", "timm": "1.0.22", "python": "3.12.3"},
        devices=("cpu (AMD EPYC), 2 threads",),
        timed_on="cpu (AMD EPYC), threads 2",
        cells=cells,
        missing=0,
        seconds=5421.5,
        alone=9877.25,
    )


def _dense(arch: str) -> Dense:
    params, macs, top1, ms, _ = DENSE[arch]
    latency = {"1": ms * 0.6, "8": ms}
    low, high = top1 - 0.55, top1 + 0.54
    return Dense(arch, params, macs, top1, low, high, latency, 10_000, "fashion-mnist-mini")


def _standing(column: Column, criteria: tuple[str, ...], noise: np.random.Generator) -> Standing:
    rows = [_row(column, criterion, noise) for criterion in criteria]
    if len(criteria) > 3 and column.ratio == 0.7:
        rows[1] = replace(rows[1], got=0.62, missed=True)
        why = "Out of memory at 'blocks.3'"
        rows[4] = Row(rows[4].criterion, "kind", (0,), False, problem=why, name=rows[4].name)
    ranked = sorted((r for r in rows if r.top1 and not r.missed), key=lambda r: -(r.top1 or 0))
    best = ranked[0].top1 or 0
    ranked = [
        replace(row, rank=place, leads=best - (row.top1 or 0) < 0.25)
        for place, row in enumerate(ranked, start=1)
    ]
    rest = [row for row in rows if row.missed] + [row for row in rows if row.problem]
    leaders = [row.criterion for row in ranked if row.leads]
    words = f"{leaders[0]} leads" + (f", tied with {', '.join(leaders[1:])}" if leaders[1:] else "")
    control = [row for row in ranked if row.criterion == "random"]
    if control and len(ranked) > 1:
        words += f"; the random control is {control[0].rank} of {len(ranked)}"
    return Standing(column, (*ranked, *rest), tuple(_pairs(ranked)), f"{words}.")


def _row(column: Column, criterion: str, noise: np.random.Generator) -> Row:
    params, macs, top1, ms, _ = DENSE[column.arch]
    damage = 3.0 if column.arch == "vit_micro" else 0.8
    healed = (0.15 if column.repair != "none" else 1) * (0.4 if column.finetune != "none" else 1)
    lost = damage * 30 * column.ratio**3 * WORTH.get(criterion, 0.4) ** 1.5 * healed
    lost += float(noise.normal(0, 0.12))
    got = column.ratio + float(noise.uniform(-0.002, 0.002))
    left = 1 - got * float(noise.uniform(0.8, 1.1))
    faster = 1 / (1 - 0.6 * (1 - left))
    seeded = criterion == "random"
    mean = top1 - lost
    half = 1.96 * math.sqrt(mean * (100 - mean) / 10_000)
    return Row(
        criterion, SCOPES.get(criterion, "kind"), (0, 1, 2) if seeded else (0,), seeded,
        got=got, params=params * (1 - got), macs=macs * left,
        speedup={"1": 1 + (faster - 1) / 3, "8": faster},
        latency_ms={"1": 0.6 * ms / (1 + (faster - 1) / 3), "8": ms / faster},
        top1=mean, low=mean - half, high=mean + half, lost=top1 - mean,
        name=criterion,
        worst=mean - 0.4 * seeded, best=mean + 0.3 * seeded, deviation=0.35 if seeded else None,
    )  # fmt: skip


def _pairs(rows: list[Row]) -> Iterator[Pair]:
    for first, second in combinations(rows, 2):
        difference = (first.top1 or 0) - (second.top1 or 0)
        p = math.exp(-8 * difference)
        verdict = "better" if p < 0.01 else "tie"
        yield Pair(first.criterion, second.criterion, difference, p, min(1.0, 5 * p), verdict)


def _agreements(
    archs: tuple[str, ...],
    criteria: tuple[str, ...],
    ratios: tuple[float, ...],
    noise: np.random.Generator,
) -> Iterator[Agreement]:
    if len(criteria) < 2:
        return
    parts = [("all", "all"), ("mlp", "kind"), ("head", "kind"), ("layers.0", "stage")]
    for arch in archs:
        for part, sort in parts:
            correlation, *overlaps = (_matrix(len(criteria), noise) for _ in (0.0, *ratios))
            overlap = {f"{r:g}": _whole(m) for r, m in zip(ratios, overlaps, strict=True)}
            yield Agreement(arch, AXES, part, sort, 4096, criteria, correlation, overlap)


def _matrix(size: int, noise: np.random.Generator) -> tuple[tuple[float | None, ...], ...]:
    points = noise.normal(size=(size, 3)) + 0.7
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    values = (points @ points.T).clip(-1, 1).tolist()
    if size > 4:
        values[4] = [None] * size
        for row in values:
            row[4] = None
    return tuple(tuple(row) for row in values)


def _whole(matrix: tuple[tuple[float | None, ...], ...]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(abs(value or 0.0) for value in row) for row in matrix)


def _kept(arch: str, ratio: float, criterion: str, noise: np.random.Generator) -> Kept:
    blocks = DENSE[arch][-1]
    fractions, kinds = {}, {}
    for block in range(blocks):
        for module, weight in KINDS.items():
            name = f"blocks.{block}.{module}"
            fraction = 1 - ratio / weight / 2 * (0.6 + block / blocks) + noise.normal(0, 0.05)
            fractions[name] = float(np.clip(fraction, 0.02, 1))
            kinds[name] = module.removeprefix("attn.")
    return Kept(arch, AXES, "params", ratio, criterion, fractions, kinds)
