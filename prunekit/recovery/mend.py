"""mend_: a chain of repairs, carried out on a model that was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..axis import Axis
from ..planning.plan import Plan
from ..repairs.base import Repair
from ..statistics.common import Images
from .gains import Mended
from .rebuild import rebuild_
from .recalibrate import recalibrate_
from .reconstruct import repair_


def mend_(
    small: nn.Module,
    dense: nn.Module,
    axes: Sequence[Axis],
    plan: Plan,
    chain: Sequence[Repair],
    blocks: Sequence[str],
    images: Images,
    part: str = "",
    kept: Mapping[str, Tensor] | None = None,
) -> Mended:
    """Carry out repairs in order; see `repair_`, `rebuild_` and `recalibrate_`.

    Args:
        small: The pruned model; its values are written to, its shape stays.
        dense: What it was cut out of.
        axes: What may have shrunk, traced on `dense`.
        plan: What did.
        chain: The repairs.
        blocks: Modules that run one after the other.
        images: Batches of calibration images.
        part: Name of the module whose layers may change; all may unless given.
        kept: Parameter to which of its values stay, where single weights became zero.

    Raises:
        AdapterError: The blocks do not run one after the other, or it is not known what a layer
            lost.
        DataError: There are no images.
        RepairError: A repair broke its contract.
    """
    done = Mended()
    for repair in chain:
        if repair.needs == "moments":
            found = repair_(small, dense, axes, plan, repair, blocks, images, part, kept)
            done.layers, done.left = found.layers, found.left
        elif repair.needs == "blocks":
            done.blocks = rebuild_(small, dense, repair, blocks, images, part, kept)
        elif repair.needs == "norms":
            done.norms = recalibrate_(small, repair, images, part)
    return done
