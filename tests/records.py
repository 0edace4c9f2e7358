"""Records of a comparison, made of small arrays."""

from __future__ import annotations

import numpy as np

from prunekit.comparison.cell import Cell, Cost, Record, Timing

IMAGES = 4000
KINDS = {  # of a model with two stages
    "layers.0.blocks.0.mlp": ("mlp", 16),
    "layers.0.blocks.0.attn.head": ("head", 4),
    "layers.1.blocks.0.mlp": ("mlp", 32),
    "layers.1.blocks.0.attn.head": ("head", 1),
}
DENSE = np.arange(IMAGES) % 100 < 90


def correct(percent: float, noise: int = 0, flips: float = 0.02) -> np.ndarray:
    """Return a model that gets a percentage right: exactly, mostly the same images as others.

    Args:
        percent: Of the images that it gets right.
        noise: Seeds which images it swaps, without changing how many are right; 0 for none.
        flips: Fraction of the images that are swapped.
    """
    right = np.arange(IMAGES) < round(percent / 100 * IMAGES)
    if noise:
        rng = np.random.default_rng(noise)
        count = round(flips * IMAGES / 2)
        for side in (True, False):
            right[rng.choice(np.flatnonzero(right == side), count, replace=False)] ^= True
    return right


def record(
    criterion: str = "lamp",
    right: np.ndarray | float = 85.0,
    *,
    seed: int = 0,
    seeded: bool = False,
    problem: str | None = None,
    got: float | None = None,
    scores: dict[str, np.ndarray] | None = None,
    kept: dict[str, np.ndarray] | None = None,
    kinds: dict[str, tuple[str, int]] = KINDS,
    **where,
) -> Record:
    """Make a record; `where` are fields of the cell."""
    cell = Cell(
        **{
            "arch": "swin_micro",
            "criterion": criterion,
            "scope": "kind",
            "repair": "none",
            "axes": ("mlp", "head"),
            "by": "params",
            "ratio": 0.5,
            "seed": seed,
            **where,
        }
    )
    if problem is not None:
        empty = np.zeros(0, bool)
        return Record(cell, seeded, None, problem, None, empty, empty, {}, {}, 0.5)
    rng = np.random.default_rng([seed, *criterion.encode()])
    scores = scores or {name: rng.random(size) for name, (_, size) in kinds.items()}
    kept = kept or {
        name: np.sort(np.argsort(-scores[name])[: max(1, size // 2)])
        for name, (_, size) in kinds.items()
    }
    got = cell.ratio if got is None else got
    right = correct(right) if isinstance(right, float | int) else right
    report = {
        "asked": cell.ratio,
        "got": got,
        "before": _stats(1000, DENSE),
        "after": _stats(round(1000 * (1 - got)), right),
        "axes": {
            name: {"kind": kind, "size": size, "kept": len(kept[name])}
            for name, (kind, size) in kinds.items()
        },
        "seconds": {"score": 1.0, "evaluate": 2.0},
        "recipe": {
            "data": "fashion-mnist-mini",
            "device": "cpu (Some)",
            "threads": 2,
            "versions": {"numpy": "2.0", "torch": "2.6"},
        },
    }
    cost = Cost(0.25 + seed, 512, 1000)
    timing = Timing({"1": 4.0, "8": 8.0}, {"1": 2.0, "8": 5.0})
    return Record(cell, seeded, report, None, cost, right, DENSE, scores, kept, 1.5, timing)


def _stats(params: int, right: np.ndarray) -> dict:
    return {
        "params": params,
        "macs": 10 * params,
        "latency_ms": {},
        "top1": round(100 * right.mean(), 3),
        "images": len(right),
    }
