"""What a repair of whole blocks promises."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..adapters import ADAPTERS
from ..adapters.answers import blocks_of
from ..cutting.shrink import shrunk
from ..recovery.rebuild import rebuild_
from ..repairs.base import Repair
from ..repairs.given import Block
from .check import Claim
from .models import FAMILIES, images_for, random_plan, subject_of, traced


def example_block(*, masked: bool = False, spread: float = 1.0) -> Block:
    """Return an MLP that lost some hidden channels, with what the whole one returned.

    Args:
        masked: Whether it has a mask on its first weight, too.
        spread: Standard deviation of the inputs.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    whole, left = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 5)), nn.Linear(5, 4)
    small = nn.Sequential(left, nn.GELU(), nn.Linear(4, 5))
    with torch.no_grad():
        for parameter in (*whole.parameters(), *small.parameters()):
            parameter.copy_(draw(*parameter.shape))
        mask = draw(4, 5) > 0
        if masked:
            left.weight.masked_fill_(~mask, 0)
        inputs = tuple(spread * draw(16, 5) for _ in range(3))
        targets = tuple(whole(x) for x in inputs)
    return Block("mlp", small, inputs, targets, {"0.weight": mask} if masked else {})


def _parameters_fit(repair: Repair) -> None:
    repair.rebuild(example_block())  # raises a RepairError that says what is wrong


def _repeats(repair: Repair) -> None:
    first, second = (repair.rebuild(example_block()) for _ in range(2))
    same = all(torch.equal(first[name], second[name]) for name in first)
    assert same, "two calls on the same block gave different parameters"


def _leaves_the_rest_alone(repair: Repair) -> None:
    block, same = example_block(masked=repair.masks), example_block(masked=repair.masks)
    repair.rebuild(block)
    for what, tensor in block.tensors.items():
        assert torch.equal(tensor, same.tensors[what]), f"{what} was changed"


def _comes_nearer(repair: Repair) -> None:
    block = example_block()
    before, own = block.error(block.module), repair.rebuild(example_block())
    block.module.load_state_dict({**block.module.state_dict(), **own})
    after = block.error(block.module)
    assert after <= before, f"the error went from {before:.3g} to {after:.3g}"


def _copes_with_constants(repair: Repair) -> None:
    repair.rebuild(example_block(spread=0.0))


def _keeps_zeros(repair: Repair) -> None:
    if repair.masks:
        repair.rebuild(example_block(masked=True))  # raises a RepairError if a zero is lost


def _rebuilds_models(repair: Repair) -> None:
    for name in FAMILIES:
        subject = subject_of(ADAPTERS.get(name))
        axes, images = traced(subject), images_for(subject.example)
        plan = random_plan(axes, subject.model, 0.3)
        small = shrunk(subject.model, axes, plan, subject.adapter).eval()
        blocks = blocks_of(subject.adapter, subject.model)
        found = rebuild_(small, subject.model, repair, blocks, images)
        assert found, f"no block of a {name} was rebuilt"


BLOCK_CLAIMS: list[Claim[Repair]] = [
    ("returns finite parameters of the block's own shapes", _parameters_fit),
    ("returns the same parameters twice", _repeats),
    ("leaves inputs, targets and masks untouched", _leaves_the_rest_alone),
    ("brings a block no further from the dense one", _comes_nearer),
    ("copes with inputs that never vary", _copes_with_constants),
    ("keeps zero what a mask removes, if it says so", _keeps_zeros),
    ("rebuilds models of every family", _rebuilds_models),
]
