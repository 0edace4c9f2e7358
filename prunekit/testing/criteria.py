"""What a criterion promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from ..axis import AUX, Axis, AxisSpec, Matrix, Member, Moments
from ..criteria import CRITERIA
from ..criteria.base import Criterion, Need
from ..plugin import configured
from .check import Check, Claim, checks
from .models import real_axes

Make = Callable[..., list[Axis]]
GATHERED: dict[Need, tuple[str, ...]] = {  # the fields of a member that each need fills
    "nothing": (),
    "gradients": ("grad",),
    "squared_gradients": ("grad_square",),
    "activations": ("inputs", "outputs"),
    "covariances": ("inputs", "outputs", "covariance"),
    "curvatures": ("inputs", "outputs", "covariance", "curvature"),
}


def criterion_checks(criterion: str | Criterion) -> list[Check]:
    """Return everything that a criterion promises, as checks.

    Args:
        criterion: A Criterion, or a registered name, with options such as "magnitude:p=1".

    Raises:
        RegistryError: Nothing has that name.
        CriterionError: It has no such option, or the value is not understood.
    """
    found = configured(CRITERIA, criterion)
    claims: list[tuple[str, Callable[..., None]]] = [
        ("returns one finite score per slice", _scores_fit),
        ("returns the same scores twice", _is_deterministic),
        ("leaves weights, gradients and statistics untouched", _leaves_all_alone),
        ("needs no more than it declares", _needs_no_more),
        ("scores half-precision weights", _takes_half_precision),
    ]
    if "seed" not in found.defaults:  # a random score belongs to the position, not the slice
        claims.append(("permutes its scores with the slices", _follows_permutations))
    levels: list[tuple[str, Make]] = [("", example_axes)]
    if found.weight_level:
        levels.append((", of single weights", example_matrices))
    about_examples: list[Claim[Criterion]] = [
        (f"{claim}{level}", partial(holds, make=make))
        for level, make in levels
        for claim, holds in claims
    ]
    return checks([*about_examples, ("scores models of every family", _scores_models)], found)


def example_axes(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Axis]:
    """Return four axes of three kinds, with everything a criterion may need.

    Two MLPs and the heads of an attention are written by one layer and read by another; the
    query·key pairs are written only. Biases have no vote, and so nothing to vote by.
    """
    generator = torch.Generator().manual_seed(seed)

    def member(name: str, role: str, shape: tuple[int, ...], dim: int, size: int) -> Member:
        index = torch.arange(shape[dim]).view(size, -1)
        weight, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        if role == AUX:
            return Member(name, role, dim, index, weight)
        square = grad.float().square() + torch.rand(shape, generator=generator)
        inputs, outputs = _moments((1, shape[1]), generator), _moments((shape[0], 1), generator)
        known = Member(name, role, dim, index, weight, grad, square, inputs, outputs)
        if dim != 1:
            return known
        columns, rows = (torch.randn(n, 2 * n, generator=generator) for n in shape[::-1])
        return replace(
            known, covariance=(columns @ columns.T).unsqueeze(0), curvature=rows @ rows.T
        )

    def axis(name: str, kind: str, inner: int, size: int, written: str, read: str | None) -> Axis:
        members = [
            member(
                f"{name}.{written}.weight", "mlp" if kind == "mlp" else written, (inner, 6), 0, size
            ),
            member(f"{name}.{written}.bias", AUX, (inner,), 0, size),
        ]
        if read is not None:
            members.append(
                member(
                    f"{name}.{read}.weight", "mlp" if kind == "mlp" else read, (6, inner), 1, size
                )
            )
        return Axis(AxisSpec(name, kind), size, tuple(members))

    return [
        axis("blocks.0.mlp", "mlp", 16, 16, "fc1", "fc2"),
        axis("blocks.1.mlp", "mlp", 24, 24, "fc1", "fc2"),
        axis("blocks.0.attn.head", "head", 12, 4, "qkv", "proj"),
        axis("blocks.0.attn.qk", "head_dim", 16, 8, "qkv", None),
    ]


def example_matrices(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Axis]:
    """Return the weight matrices of `example_axes`, each an axis of its single weights."""
    return [_matrix(voter) for axis in example_axes(seed, dtype) for voter in axis.voters]


def _matrix(voter: Member) -> Axis:
    """Return an axis of the single weights of a member."""
    given = {field.name: getattr(voter, field.name) for field in fields(voter)}
    none = torch.empty((0, 1), dtype=torch.int64)
    matrix = Matrix(**{**given, "dim": 0, "index": none})
    return Axis(AxisSpec(voter.name, voter.role), voter.weight.numel(), (matrix,))


def _moments(shape: tuple[int, ...], generator: torch.Generator) -> Moments:
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Moments(mean, torch.rand(shape, generator=generator, dtype=torch.float64))


def _scores_models(criterion: Criterion) -> None:
    for axes in real_axes(criterion.needs).values():
        criterion.unguarded(axes)
        if not criterion.weight_level:
            continue
        voters = {voter.name: voter for axis in axes for voter in axis.voters}
        criterion.unguarded([_matrix(voter) for voter in voters.values()])


def _scores_fit(criterion: Criterion, make: Make) -> None:
    criterion.unguarded(make())  # raises a CriterionError that says what is wrong


def _is_deterministic(criterion: Criterion, make: Make) -> None:
    for first, second in zip(criterion.unguarded(make()), criterion.unguarded(make()), strict=True):
        assert torch.equal(first, second), "two calls on the same axes gave different scores"


def _leaves_all_alone(criterion: Criterion, make: Make) -> None:
    axes, same = make(), make()
    criterion.unguarded(axes)
    for axis, before in zip(axes, same, strict=True):
        for member, old in zip(axis.members, before.members, strict=True):
            for (what, tensor), original in zip(
                member.tensors.items(), old.tensors.values(), strict=True
            ):
                assert torch.equal(tensor, original), f"{what} of {member.name} was changed"


def _needs_no_more(criterion: Criterion, make: Make) -> None:
    criterion.unguarded([_with_only(criterion.needs, axis) for axis in make()])


def _with_only(need: Need, axis: Axis) -> Axis:
    """Take from an axis what is gathered for other needs."""
    given = GATHERED[need]
    hidden = {f: None for fields in GATHERED.values() for f in fields if f not in given}
    return replace(
        axis,
        members=tuple(replace(member, **hidden) for member in axis.members),  # type: ignore[arg-type]
    )


def _takes_half_precision(criterion: Criterion, make: Make) -> None:
    criterion.unguarded(make(dtype=torch.bfloat16))


def _follows_permutations(criterion: Criterion, make: Make) -> None:
    axes = make()
    permuted, orders = zip(*map(_permuted, axes), strict=True)
    for axis, score, other, order in zip(
        axes, criterion.unguarded(axes), criterion.unguarded(permuted), orders, strict=True
    ):
        assert torch.allclose(score[order], other, rtol=1e-4), (
            f"permuting the slices of {axis.name} did not permute their scores"
        )


def _permuted(axis: Axis) -> tuple[Axis, Tensor]:
    """Number the slices otherwise; return the axis, and which slice each was before."""
    generator = torch.Generator().manual_seed(1)
    if axis.of_weights:
        return _permuted_rows(axis, generator)
    # Every tensor keeps its order, and so do all positions.
    order = torch.randperm(axis.size, generator=generator)
    members = (replace(member, index=member.index[order]) for member in axis.members)
    return replace(axis, members=tuple(members)), order


def _permuted_rows(axis: Axis, generator: torch.Generator) -> tuple[Axis, Tensor]:
    """Exchange a matrix' rows, in all tensors: its slices are numbered as they lie there."""
    (member,) = axis.members
    rows = torch.randperm(len(member.weight), generator=generator)

    def moved(tensor: Tensor | None) -> Tensor | None:
        return tensor[rows] if tensor is not None and len(tensor) == len(rows) else tensor

    def moments(found: Moments | None) -> Moments | None:
        return found and Moments(moved(found.mean), moved(found.variance))  # type: ignore[arg-type]

    permuted = replace(
        member,
        weight=member.weight[rows],
        grad=moved(member.grad),
        grad_square=moved(member.grad_square),
        inputs=moments(member.inputs),
        outputs=moments(member.outputs),
    )
    order = torch.arange(axis.size).view(member.weight.shape)[rows].flatten()
    return replace(axis, members=(permuted,)), order
