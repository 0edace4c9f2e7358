"""What can shrink: the words that criteria, adapters and plans share.

An *axis* is a dimension that may shrink, a *slice* one position on it, and a *member* a
parameter that shrinks with it. Importing this file does not import torch, so that
adapters can be listed quickly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from .branch import Branch, Stream

if TYPE_CHECKING:
    from torch import Tensor

AUX = "aux"  # the role of parameters that are cut along but have no say in the scores


@dataclass(frozen=True)
class Fold:
    """How the positions of one dimension fold into slices.

    Attributes:
        layout: The dimension's size, factored; (3, heads, head_dim) for a fused qkv layer.
        along: Which factors count the slices; the others are inside a slice.
        take: Use only these entries of the first factor, such as (2,) for the values.

    Example:
        >>> Fold((2, 3), along=(1,)).index()
        tensor([[0, 3],
                [1, 4],
                [2, 5]])
    """

    layout: tuple[int, ...]
    along: tuple[int, ...] = (0,)
    take: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """Number of slices."""
        return math.prod(self.layout[factor] for factor in self.along)

    def index(self) -> Tensor:
        """Return the positions each slice owns, (size, k) int64."""
        import torch

        positions = torch.arange(math.prod(self.layout)).view(self.layout)
        if self.take is not None:
            positions = positions[list(self.take)]
        inside = [f for f in range(len(self.layout)) if f not in self.along]
        return positions.permute(*self.along, *inside).reshape(self.size, -1)


@dataclass(frozen=True)
class Places:
    """The positions that each slice owns, spelled out where no layout says them.

    Attributes:
        length: Of the dimension.
        rows: The positions of each slice, equally many.
    """

    length: int
    rows: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of slices."""
        return len(self.rows)

    def index(self) -> Tensor:
        """Return the positions each slice owns, (size, k) int64."""
        import torch

        return torch.tensor(self.rows)


@dataclass(frozen=True)
class Tie:
    """A parameter dimension that shrinks with an axis in a way the graph cannot see.

    Attributes:
        parameter: Its qualified name.
        dim: Which of its dimensions.
        fold: How that dimension folds into the axis' slices.
        folds: What the parameter does is folded into what stays; so it leaves with the slices,
            but masking them leaves it as it is.
    """

    parameter: str
    dim: int
    fold: Fold | Places
    folds: bool = False


@dataclass(frozen=True)
class AxisSpec:
    """One dimension that an adapter allows to shrink.

    Attributes:
        name: Unique within the model, such as "blocks.0.mlp".
        kind: `head`, `head_dim`, `mlp`, `width`, `block`, or a word of your own.
        layer: The layer whose channels define the axis. None: `ties` say it all.
        side: Whether those are its input or its output channels.
        fold: How those channels fold into slices; None: every channel is a slice.
        ties: Dimensions the graph does not see, or sees wrongly; these win.
        owner: The module whose own arithmetic (not its children's) grows with the axis,
            such as the attention whose matrix products run over heads.
        groups: The slices come in so many equal runs, and equally many stay in each.
        match: Axes with the same word here must keep equally many slices per group.
        rounded: Whether `multiple` applies to what is kept.
        product: Each slice is two outputs, a query's and a key's, whose products are added up
            over the slices of a group.
        branch: The residual branch that is the only slice; None if slices are positions.
    """

    name: str
    kind: str
    layer: str | None = None
    side: Literal["in", "out"] = "out"
    fold: Fold | None = None
    ties: tuple[Tie, ...] = ()
    owner: str | None = None
    groups: int = 1
    match: str | None = None
    rounded: bool = True
    product: bool = False
    branch: Branch | None = None


@dataclass(frozen=True)
class Moments:
    """The mean and the variance of activations, over all calibration images and positions.

    Attributes:
        mean: Of each feature; float64, as is the variance.
        variance: About that mean, over the number of values; same shape.
    """

    mean: Tensor
    variance: Tensor

    @property
    def square(self) -> Tensor:
        """The mean square of each feature."""
        return self.variance + self.mean.square()


@dataclass(frozen=True)
class Member:
    """One parameter dimension that shrinks with an axis.

    Attributes:
        name: The parameter's qualified name.
        role: What the parameter does: `qkv`, `proj`, `mlp`, ..., or `aux`.
        dim: Which of its dimensions shrinks.
        index: The positions each slice owns on that dimension, (size, k) int64, on CPU.
        weight: The parameter's values, detached; shared with the model, never to be written.
        grad: The loss gradient averaged over the calibration images, of the same shape;
            None unless the criterion needs gradients.
        grad_square: The square of each image's own loss gradient, averaged over the images, of
            the same shape; None unless the criterion needs squared gradients.
        inputs: What the layer multiplies the weight with, shaped to broadcast against it:
            (1, in) for a linear layer, (1, in, 1, 1) for a convolution, (C, 1, 1, 1) if that is
            depthwise. None unless the criterion needs activations, and for parameters that are
            not the weight of a linear or convolution layer.
        outputs: What the layer returns, bias included, shaped to broadcast along dimension 0.
        folds: As of its `Tie`.
        covariance: Of what the flattened weight is multiplied with, (groups, columns, columns);
            None unless the criterion needs covariances, and for members that are not columns of
            the weight of a linear or convolution layer.
        curvature: Second moment of the loss gradient in the layer's outputs, summed over an
            image's positions and averaged over the images, (outputs, outputs); None unless the
            criterion needs curvatures, and where there is no covariance.
    """

    name: str
    role: str
    dim: int
    index: Tensor
    weight: Tensor
    grad: Tensor | None = None
    grad_square: Tensor | None = None
    inputs: Moments | None = None
    outputs: Moments | None = None
    folds: bool = False
    covariance: Tensor | None = None
    curvature: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors it has, by what they are in words."""
        found = {"the index": self.index, "the weight": self.weight}
        more = {
            "the gradient": self.grad,
            "the squared gradient": self.grad_square,
            "the covariance of the inputs": self.covariance,
            "the curvature": self.curvature,
        }
        found |= {what: tensor for what, tensor in more.items() if tensor is not None}
        for what, moments in (("inputs", self.inputs), ("outputs", self.outputs)):
            if moments is not None:
                found[f"the mean of the {what}"] = moments.mean
                found[f"the variance of the {what}"] = moments.variance
        return found

    @property
    def reads(self) -> bool:
        """Whether the axis is what the layer reads, by its `inputs`; else it only writes it."""
        own = self.weight.shape[self.dim]
        return self.inputs is not None and self.inputs.mean.shape[self.dim] == own

    def slices(self, values: Tensor) -> Tensor:
        """Gather an elementwise quantity, shaped like `weight`, as (size, rest)."""
        rows = values.movedim(self.dim, 0)
        return rows[self.index.to(values.device)].flatten(1)

    def per_slice(self, values: Tensor) -> Tensor:
        """Add up an elementwise quantity, shaped like `weight`, over each slice.

        Returns:
            (size,) float64, on the device of `values`. Within one position the sum is taken in
            the dtype of `values`, which should be float32 or better.
        """
        others = [dim for dim in range(values.dim()) if dim != self.dim]
        sums = values.sum(others) if others else values  # sum([]) would be over everything
        return sums.double()[self.index.to(values.device)].sum(1)

    @property
    def weights_per_slice(self) -> int:
        """How many of the parameter's values one slice holds."""
        return self.weight.numel() // self.weight.shape[self.dim] * self.index.shape[1]


@dataclass(frozen=True)
class Matrix(Member):
    """A whole weight matrix whose single values are the slices.

    Slice i is value i of the flattened weight, so `index` would only count up; over the millions
    of weights of a model it would take twice their memory, and is left empty.
    """

    def slices(self, values: Tensor) -> Tensor:
        """Shape an elementwise quantity as (size, 1)."""
        return self.per_slice(values).unsqueeze(1)

    def per_slice(self, values: Tensor) -> Tensor:
        """Return an elementwise quantity as (size,) float32, on the device of `values`.

        There is nothing to add up, so that float64 would be twice the memory and no more exact.
        """
        return values.flatten().float()

    @property
    def weights_per_slice(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class Axis:
    """A spec, traced: which parameters shrink with it, and where.

    Attributes:
        spec: What the adapter declared.
        size: Number of slices.
        members: Every parameter dimension that shrinks with it.
        norms: Modules that normalise over it, with the positions each slice owns,
            (size, k) int64; they may have no parameters at all.
        price: What one slice saves of the budget while all others are there, in MACs or slices;
            None if the budget counts parameters, or nobody said.
        stream: Of a branch, what it adds to; None unless the criterion needs activations.
    """

    spec: AxisSpec
    size: int
    members: tuple[Member, ...]
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    price: float | None = None
    stream: Stream | None = None

    @property
    def name(self) -> str:
        """The spec's name."""
        return self.spec.name

    @property
    def kind(self) -> str:
        """The spec's kind."""
        return self.spec.kind

    def renamed(self, spec: AxisSpec, change: Callable[[str], str]) -> Axis:
        """Return the same axis with a spec, and names of parameters and modules, of a larger model.

        Args:
            spec: What the axis is in that model.
            change: From a name of a parameter or a module to its name there.
        """
        members = tuple(replace(member, name=change(member.name)) for member in self.members)
        norms = {change(name): index for name, index in self.norms.items()}
        return replace(self, spec=spec, members=members, norms=norms)

    @property
    def of_weights(self) -> bool:
        """Whether its slices are the single values of a weight matrix."""
        return isinstance(self.members[0], Matrix)

    @property
    def voters(self) -> tuple[Member, ...]:
        """The members whose role gives them a say: weight matrices that are not `aux`."""
        return tuple(member for member in self.members if member.role != AUX)

    @property
    def readers(self) -> tuple[Member, ...]:
        """The voters whose inputs the slices are, by columns.

        Queries and keys have none, since they meet in a product, nor have single weights: then
        all voters.
        """
        return tuple(member for member in self.voters if member.dim != 0) or self.voters

    @property
    def weights_per_slice(self) -> int:
        """How many values of the voters one slice holds."""
        return sum(member.weights_per_slice for member in self.voters)

    def reduce(self, values: Callable[[Member], Tensor]) -> Tensor:
        """Fold an elementwise quantity of the voters into one number per slice.

        Args:
            values: From a member to a tensor shaped like its weight.

        Returns:
            The sum over all voters and everything a slice owns in them, (size,).
        """
        total: Tensor | int = 0
        for member in self.voters:
            total = total + member.per_slice(values(member))
        assert not isinstance(total, int), f"axis {self.name} has no voters"
        return total


def matrix_axis(name: str, role: str, weight: Tensor) -> Axis:
    """Return the axis of a weight matrix, whose slices are its single values.

    Args:
        name: The parameter's qualified name, and the axis'.
        role: What the parameter does, and the axis' kind.
        weight: The parameter's values, detached.
    """
    import torch

    return Axis(
        AxisSpec(name, role),
        weight.numel(),
        (Matrix(name, role, 0, torch.empty((0, 1), dtype=torch.int64), weight),),
    )


def tensors_of(axes: Sequence[Axis]) -> dict[str, Tensor]:
    """Return all tensors of some axes, by what they are in words."""
    found = {}
    for axis in axes:
        for member in axis.members:
            for what, tensor in member.tensors.items():
                found[f"{what} of {member.name!r} (axis {axis.name!r}, dim {member.dim})"] = tensor
        for norm, index in axis.norms.items():
            found[f"the index of {norm!r} (axis {axis.name!r})"] = index
    return found


def cuts(axes: Sequence[Axis]) -> dict[tuple[str, int], list[tuple[Axis, Member]]]:
    """Group all members by the parameter dimension that they cut."""
    found: dict[tuple[str, int], list[tuple[Axis, Member]]] = {}
    for axis in axes:
        for member in axis.members:
            found.setdefault((member.name, member.dim), []).append((axis, member))
    return found
