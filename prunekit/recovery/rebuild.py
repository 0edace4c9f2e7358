"""rebuild_: whole blocks are trained towards what they returned, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import RepairError
from ..naming import is_within
from ..repairs.base import Repair
from ..repairs.given import Block
from ..statistics.common import Images
from ..statistics.walk import WHOLE, Walk
from .gains import Repaired

Names: TypeAlias = tuple[str, ...]  # of modules that run one after the other
Pair: TypeAlias = tuple[Tensor, Tensor]
Batches: TypeAlias = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
UNSEEN = 4  # one batch of so many is held out, to see whether a block is better for it


@torch.no_grad()
def rebuild_(
    small: nn.Module,
    dense: nn.Module,
    repair: Repair,
    blocks: Sequence[str],
    images: Images,
    part: str = "",
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Repaired]:
    """Let a repair rebuild every block, on what it gets from the model rebuilt so far.

    A block stays as it is unless what comes back is nearer to the dense block on batches that the
    repair was not given. Blocks that return fewer channels than they did are rebuilt together with
    those after them. At last the whole model is rebuilt as one block, unless it returns more than a
    tensor; a model without blocks, or whose width shrank, is nothing else.

    Args:
        small: The pruned model; its parameters are written to.
        dense: What it was cut out of.
        repair: Computes the parameters of a block.
        blocks: Modules that run one after the other, see `Adapter.blocks`.
        images: Batches of calibration images; read several times, labels are not looked at.
        part: Name of the module whose parameters may change; all may unless given.
        kept: Parameter to which of its values stay, where single weights became zero.

    Returns:
        Block, or "first to last", to its error on the batches held out, before and after. Those
        that return what they returned, and those without parameters, are left out. The name of
        the whole model is empty.

    Raises:
        AdapterError: The blocks do not run one after the other.
        DataError: There are no images.
        RepairError: The repair broke its contract.
    """
    walk = Walk(dense, small, images)
    found: dict[str, Repaired] = {}
    for names in walk.runs(blocks):
        walk.enter(names[0])
        if all(is_within(name, part) for name in names):
            found |= _rebuild_(small, names, repair, walk, kept or {})
        for name in names[1:]:
            walk.enter(name)
    walk.enter(WHOLE)
    if not part and WHOLE not in found and _returns_a_tensor(walk):
        found |= _rebuild_(small, (WHOLE,), repair, walk, kept or {})
    return found


def _returns_a_tensor(walk: Walk) -> bool:
    return all(isinstance(one, Tensor) for one in next(walk.through((WHOLE,))))


def _rebuild_(
    small: nn.Module, names: Names, repair: Repair, walk: Walk, kept: Mapping[str, Tensor]
) -> dict[str, Repaired]:
    """Rebuild one block, if it is not what it was; say what that did."""
    name, module = _called(names), _together(small, names)
    if next(module.parameters(), None) is None:
        return {}
    pairs = [_checked(pair, name, repair) for pair in walk.through(names)]
    fitted, unseen = _parted(pairs)
    device = pairs[0][0].device
    masks = {inner: mask.to(device) for inner, mask in _masks_of(names, kept).items()}
    judged = Block(name, module, *unseen, masks)
    before = judged.error(module)
    if before == 0:
        return {}
    made = copy.deepcopy(module)
    own = repair.rebuild(Block(name, _trainable(module), *fitted, masks))
    made.load_state_dict({**made.state_dict(), **own})
    after = judged.error(made)
    if after < before:
        module.load_state_dict(made.state_dict())
    return {name: Repaired(before, min(before, after))}


def _together(model: nn.Module, names: Names) -> nn.Module:
    """Return a module, or several that run one after the other as one."""
    parts = [model.get_submodule(name) for name in names]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _called(names: Names) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _masks_of(names: Names, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a block's parameters, by their names in the block."""
    found = {}
    for number, name in enumerate(names):
        inside = f"{number}." if len(names) > 1 else ""
        prefix = f"{name}." if name else ""
        for parameter, mask in kept.items():
            if parameter.startswith(prefix):
                found[inside + parameter.removeprefix(prefix)] = mask
    return found


def _checked(pair: tuple[Any, Any], name: str, repair: Repair) -> Pair:
    """Return what a block gets and returns, one tensor each.

    Raises:
        RepairError: It is something else.
    """
    if not all(isinstance(one, Tensor) for one in pair):
        what = f"The block {name!r}" if name else "The model, which has no blocks in a row,"
        raise RepairError(
            f"{what} takes or returns more than one tensor, which the repair {repair.name!r} "
            "cannot work on; choose another."
        )
    return pair


def _trainable(module: nn.Module) -> nn.Module:
    """Return a copy whose parameters take gradients; half precision would lose these."""
    made = copy.deepcopy(module).float()
    for parameter in made.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return made


def _parted(batches: Sequence[Pair]) -> tuple[Batches, Batches]:
    """Return inputs and targets to fit on, in float32, and those to judge by.

    Every fourth batch is held out, the last one among them; of a single batch the second half.
    """
    if len(batches) == 1:
        ((x, y),) = batches
        half = (len(x) + 1) // 2
        batches = [(x[:half], y[:half]), (x[-half:], y[-half:])]
    fitted, unseen = [], []
    for number, pair in enumerate(reversed(batches)):
        if number % UNSEEN:
            fitted.append((pair[0].float(), pair[1].float()))
        else:
            unseen.append(pair)
    return _apart(fitted), _apart(unseen)


def _apart(batches: Sequence[Pair]) -> Batches:
    return tuple(x for x, _ in batches), tuple(y for _, y in batches)
