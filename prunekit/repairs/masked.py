"""masked_changes: ridge regression of weights of which some are held at zero."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 100  # of conjugate gradients, at most
ENOUGH = 1e-6  # of the first residual; a smaller one is solved
TINY = 1e-300


def masked_changes(missing: Tensor, inputs: Tensor, ridges: Tensor, mask: Tensor) -> Tensor:
    """Solve (D (C + lambda I)) = missing on the weights that stay, D = 0 elsewhere.

    Every output has a mask of its own, and so a system of its own. All are solved together by
    conjugate gradients, projected onto the masks and preconditioned by the diagonal, each with
    its own step.

    Args:
        missing: What is lacking, cov(y, x) - W C, (outputs, inputs).
        inputs: C, (inputs, inputs).
        ridges: lambda, of each problem, (ridges,).
        mask: Which weights stay, (outputs, inputs).

    Returns:
        D for each lambda, (ridges, outputs, inputs).

    Source:
        Meng et al., ALPS, NeurIPS 2024, arXiv:2406.07831, section 3.3. Differs: a ridge on the
        change of the weight.
    """
    ridges = ridges.view(-1, 1, 1)
    scale = mask / (inputs.diagonal() + ridges).clamp(min=TINY)  # (ridges, outputs, inputs)
    residual = missing.expand(scale.shape)
    changes = torch.zeros_like(residual)
    ahead = direction = scale * residual
    size = (residual * ahead).sum(-1, keepdim=True)
    enough = ENOUGH**2 * size
    for _ in range(STEPS):  # what is outside of the mask never counts, for its scale is zero
        if bool((size <= enough).all()):
            break
        moved = direction @ inputs + ridges * direction
        step = size / (direction * moved).sum(-1, keepdim=True).clamp(min=TINY)
        changes = changes + step * direction
        residual = residual - step * moved
        ahead = scale * residual
        before, size = size, (residual * ahead).sum(-1, keepdim=True)
        direction = ahead + size / before.clamp(min=TINY) * direction
    return changes
