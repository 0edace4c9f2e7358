"""Cells: which settings the bench of many models runs, and what came of one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import torch
from data import splits
from torch import Tensor, nn
from torch.nn import functional as F
from train import loaded

from prunekit import prune
from prunekit.errors import PruneError
from prunekit.inputs.fashion import ArrayImages
from prunekit.shared import Shared

CALIBRATION, JUDGED = 512, 2048  # training images: for criteria and repairs, and to choose by
FLOOR, MULTIPLE = 0.02, 1  # small models have few channels to begin with
BATCH = 500

Setting = tuple[str, str | None, str, int]  # criterion, scope, repair, rounds


@dataclass(frozen=True)
class Cell:
    """One model, one budget and one setting."""

    model: str
    by: str
    ratio: float
    criterion: str
    scope: str | None
    repair: str
    steps: int = 1

    @classmethod
    def of(cls, row: dict[str, Any]) -> Cell:
        """Return the cell that a row is of."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row})

    @property
    def setting(self) -> str:
        """What is compared: criterion, scope, rounds and repair."""
        scope = "" if self.scope is None else f", scope {self.scope}"
        rounds = "" if self.steps == 1 else f" in {self.steps} rounds"
        repair = "" if self.repair == "none" else f" + {self.repair}"
        return f"{self.criterion}{scope}{rounds}{repair}"


def cells(
    models: list[str],
    budgets: list[tuple[str, float]],
    settings: Sequence[Setting],
) -> Iterator[Cell]:
    """Yield all cells, those of a model together."""
    for model in models:
        for by, ratio in budgets:
            for setting in settings:
                yield Cell(model, by, ratio, *setting)


@dataclass(frozen=True)
class Bench:
    """A trained model and its images: some to calibrate, some to choose by, some to test."""

    model: nn.Module
    calibration: ArrayImages
    judged: ArrayImages
    test: ArrayImages
    outputs: dict[str, tuple[Tensor, Tensor]]
    shared: Shared


@cache
def bench(name: str) -> Bench:
    """Load a model; what its criteria gather is gathered once."""
    model, card = loaded(name)
    train, test = splits(card["data"], model)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    chosen = [order[:CALIBRATION], order[CALIBRATION : CALIBRATION + JUDGED]]
    calibration, judged = (
        ArrayImages(train.images[part], train.labels[part], train.spec) for part in chosen
    )
    found = {"judged": answers(model, judged), "test": answers(model, test)}
    return Bench(model, calibration, judged, test, found, Shared())


@torch.inference_mode()
def answers(model: nn.Module, images: ArrayImages) -> tuple[Tensor, Tensor]:
    """Return logits and labels of all images."""
    found = []
    for start in range(0, len(images), BATCH):
        x, y = images.__getitems__(list(range(start, min(start + BATCH, len(images)))))
        found.append((model(x), y))
    logits, labels = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(labels)


def tried(cell: Cell) -> dict[str, Any]:
    """Prune a model and say what is lost; `problem` says in a sentence why it could not be."""
    on = bench(cell.model)
    height, width = on.test.spec.size[1:]
    try:
        result = prune(
            on.model,
            cell.criterion,
            cell.ratio,
            by=cell.by,
            scope=cell.scope,
            repair=cell.repair,
            steps=cell.steps,
            data=(on.calibration, on.judged),
            calibration=CALIBRATION,
            floor=FLOOR,
            multiple=MULTIPLE,
            evaluate=False,
            example_input=torch.zeros(1, 1, height, width),
            shared=on.shared,
        )
    except PruneError as error:
        return asdict(cell) | {"problem": str(error)}
    found: dict[str, Any] = {"got": round(result.got, 4)}
    for part, images in (("judged", on.judged), ("test", on.test)):
        found |= {f"{part}_{k}": v for k, v in losses(result.model, images, on, part).items()}
    seconds = sum(result.seconds.values())
    return asdict(cell) | found | {"seconds": round(seconds, 2)}


def losses(model: nn.Module, images: ArrayImages, on: Bench, part: str) -> dict[str, float]:
    """Return points of top-1 lost, the rise of the loss, and the divergence from the dense."""
    logits, labels = answers(model, images)
    dense, _ = on.outputs[part]
    rise = F.cross_entropy(logits, labels) - F.cross_entropy(dense, labels)
    gap = dense.log_softmax(1) - logits.log_softmax(1)
    right, before = ((one.argmax(1) == labels).float().mean() for one in (logits, dense))
    return {
        "lost": round(100 * float(before - right), 3),
        "rise": round(float(rise), 5),
        "divergence": round(float((dense.softmax(1) * gap).sum(1).mean()), 6),
    }
