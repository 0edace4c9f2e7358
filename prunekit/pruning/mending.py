"""mended: the repairs that were asked for, carried out on what pruning left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..adapters.answers import blocks_of
from ..axis import Axis
from ..inputs.subject import Subject
from ..planning.plan import Plan
from ..recovery.mend import mend_
from ..result import Round
from ..tracing.chain import chain_of
from .job import REPAIR_BATCH, Job


def mended(
    job: Job,
    subject: Subject,
    small: nn.Module,
    done: Round,
    axes: Sequence[Axis],
    plan: Plan,
    kept: Mapping[str, Tensor] | None = None,
) -> Round:
    """Repair a model, and return the round with what that did.

    Args:
        job: Says which repairs, on which images.
        subject: What was cut, or masked.
        small: What pruning left; it is written to.
        done: What is known of the round.
        axes: What may have shrunk.
        plan: What did.
        kept: Parameter to which of its values stay, where single weights became zero.

    Raises:
        PruneError: One of its children.
    """
    chain = job.request.mending
    if all(repair.needs == "nothing" for repair in chain):
        return done
    with job.watch("repair"):
        blocks = blocks_of(subject.adapter, subject.model) or chain_of(
            subject.model, subject.example
        )
        images = job.drawn(REPAIR_BATCH)
        found = mend_(small, subject.model, axes, plan, chain, blocks, images, subject.part, kept)
    return replace(
        done,
        repaired=found.layers,
        rebuilt=found.blocks,
        recalibrated=found.norms,
        unrepaired=found.left,
    )
