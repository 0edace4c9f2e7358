"""Reconstruct: train a whole block towards the outputs that it had."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..plugin import Allowed
from .base import repair
from .given import Block

SMALLEST = 1e-3  # root mean square that a step is relative to; of zeros it would never leave them
OF_ALL = 0.1  # of the rate, for a whole model: in many layers small steps add up
WARM = 0.1  # of all steps, in which they grow to their full length


@repair(
    "reconstruct",
    needs="blocks",
    masks=True,
    allowed={
        "epochs": Allowed("1 or more", lambda epochs: epochs >= 1),
        "rate": Allowed("above 0", lambda rate: rate > 0),
    },
)
def reconstruct(block: Block, *, epochs: int = 8, rate: float = 0.02) -> Mapping[str, Tensor]:
    """Train all weights of a block so that it returns what the dense block returned.

    What a block computes is not linear in its weights, so that refitting one layer at a time, as
    `lstsq` does, leaves more than need be: the layer that writes the hidden channels stays what it
    was. Here all layers of a block move together, a few passes over the calibration images, from
    where they are. Steps are relative to the size of each parameter, so that no learning rate has
    to be found.

    Args:
        block: What to train.
        epochs: Passes over the images.
        rate: Length of the longest step, relative to a parameter's root mean square; a tenth of it
            where the block is the whole model.

    Source:
        Lucas and Mazumder, Preserving Deep Representations In One-Shot Pruning (SNOWS), ICLR
        2025, arXiv:2411.18376; for quantisation Li et al., BRECQ, ICLR 2021, arXiv:2102.05426.
        Differs: Adam with relative steps (Shazeer and Stern, Adafactor, ICML 2018) where SNOWS
        takes Newton steps; L-BFGS came out worse on images that it had not seen.
    """
    module = block.module
    trained = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    steps = epochs * len(block.inputs)
    rate = rate if block.name else rate * OF_ALL
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": rate * _size(p)} for p in trained.values()], rate
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=WARM)
    generator = torch.Generator().manual_seed(0)
    scale = sum(float(y.square().sum()) for y in block.targets) / sum(map(_count, block.targets))
    for _ in range(epochs):
        for number in torch.randperm(len(block.inputs), generator=generator).tolist():
            x, y = block.inputs[number], block.targets[number]
            loss = (module(x) - y).float().square().mean() / max(scale, 1e-30)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            _hold_(trained, block.masks)
    made = {name: parameter.detach() for name, parameter in trained.items()}
    finite = all(bool(values.isfinite().all()) for values in made.values())
    return made if finite else {}  # where steps were too long, it stays as it was


@torch.no_grad()
def _hold_(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Set to zero what the masks remove."""
    for name, mask in masks.items():
        parameters[name].masked_fill_(~mask, 0)


def _size(parameter: Tensor) -> float:
    return max(float(parameter.detach().float().square().mean().sqrt()), SMALLEST)


def _count(values: Tensor) -> int:
    return values.numel()
