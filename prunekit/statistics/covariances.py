"""The covariances of what layers read, in one pass and without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..axis import Axis
from ..errors import AdapterError
from ..tracing.layers import MATRICES
from .activations import watching
from .common import Images, evaluating, first_weight, placed, precise, with_voters, without_labels
from .covariance import gram
from .unfolding import NoLinearMap, patches, positions

MOST_COLUMNS = 16384  # whose covariance takes 1 GiB in float32


def gather_covariances(model: nn.Module, axes: Sequence[Axis], images: Images) -> list[Axis]:
    """Return the axes with the covariance of what is read of them, and with their activations.

    A layer that computes its weight from the parameter, and could not be made plain, gets none: it
    cannot be refitted either. The model runs in evaluation mode and is not modified; labels are
    not looked at.

    Raises:
        DataError: There are no images.
        AdapterError: A voter's layer took no part in the forward pass, or reads too much.
    """
    with (
        watching(model, axes) as informed,
        spreading(model, axes) as spread,
        evaluating(model),
        torch.no_grad(),
    ):
        for x in without_labels(images):
            model(placed(x, first_weight(model)))
    return spread(informed())


def readers_of(model: nn.Module, axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the layers that read an axis by columns of their weight, by parameter."""
    names = {member.name for axis in axes for member in axis.readers if member.dim == 1}
    return {
        f"{name}.weight": layer
        for name, layer in model.named_modules()
        if isinstance(layer, MATRICES) and f"{name}.weight" in names
    }


@contextmanager
def spreading(
    model: nn.Module, axes: Sequence[Axis]
) -> Iterator[Callable[[Sequence[Axis]], list[Axis]]]:
    """Watch a model while it runs; what is given adds covariances to the axes afterwards."""
    spreads = {name: _Spread(name, layer) for name, layer in readers_of(model, axes).items()}
    handles = [spread.layer.register_forward_hook(spread.hook) for spread in spreads.values()]
    try:
        yield lambda known: with_covariances(
            known, {name: spread.covariance() for name, spread in spreads.items()}
        )
    finally:
        for handle in handles:
            handle.remove()


def with_covariances(axes: Sequence[Axis], found: Mapping[str, Tensor | None]) -> list[Axis]:
    """Return the axes with the covariances of parameters."""
    return with_voters(
        axes,
        lambda m: replace(m, covariance=found.get(m.name)) if m.dim == 1 else m,
    )


class _Spread:
    """The covariance of what one layer's flattened weight is multiplied with.

    It is held in float32, for a large model has hundreds of megabytes of them. Values are shifted
    by the first batch's mean before they are multiplied.
    """

    def __init__(self, name: str, layer: Any):
        self.layer = layer
        columns = layer.weight[0].numel()
        if columns > MOST_COLUMNS:
            raise AdapterError(
                f"{name!r} reads {columns:,} inputs, too many for a covariance (at most "
                f"{MOST_COLUMNS:,}); exclude the axes that it reads, or choose a criterion that "
                "needs none."
            )
        self._generator = torch.Generator().manual_seed(0)
        self._shift: Tensor | None = None
        self._count = 0
        self._sum: Any = 0.0
        self._products: Tensor | None = None
        self._linear = True

    def hook(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Take note of one call."""
        at = positions(layer, output, self._generator)
        try:
            values = precise(patches(layer, inputs[0].detach(), at))  # (groups, n, columns)
        except NoLinearMap:
            self._linear = False
            return
        if self._shift is None:
            self._shift = values.mean(1, keepdim=True)
        values = values - self._shift
        self._count += values.shape[1]
        self._sum = self._sum + values.sum(1).double()
        if self._products is None:
            self._products = gram(values)
        else:
            self._products += gram(values)

    def covariance(self) -> Tensor | None:
        """Return it, (groups, columns, columns)."""
        if not self._linear or self._products is None:
            return None
        mean = (self._sum / self._count).to(self._products.dtype)
        return self._products.div_(self._count).sub_(mean.unsqueeze(2) * mean.unsqueeze(1))
