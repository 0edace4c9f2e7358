"""energies: what the outputs of a layer are small or large against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..axis import Axis, Member

TINY = torch.finfo(torch.float64).tiny


def energies(axes: Sequence[Axis]) -> Callable[[Member], float]:
    """Return a function from a reading layer to the energy of what it adds to.

    Of a layer that ends a residual branch among the axes, that is the mean of |x|^2 of the stream
    before the branch; of any other the mean of |y|^2 of what it returns.
    """
    streams = {axis.voters[0].name: axis.stream for axis in axes if axis.stream is not None}

    def energy(member: Member) -> float:
        if member.name in streams:
            return streams[member.name].energy
        assert member.outputs is not None, "whoever gathers the inputs gathers the outputs"
        return max(float(member.outputs.square.sum()), TINY)

    return energy
