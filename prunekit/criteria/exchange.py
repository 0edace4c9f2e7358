"""exchanged: slices that stay are exchanged for others, as long as refitting then leaves less."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .elimination import Reader, damped, part

GAIN = 1e-9  # of what all slices are worth; less is rounding
ORDERS = ((False, True), (True, False))  # in and out, or out and in


def exchanged(
    readers: Sequence[Reader], kept: Tensor, groups: int, swaps: int, ridge: float
) -> Tensor:
    """Return as many slices as are kept, after a local search.

    Each step takes back the slice that helps most and removes the one that is then missed least, or
    the other way round, if that leaves less than before; so what is left over never grows. Slices
    of a group are exchanged for slices of that group.

    Args:
        readers: The maps that read the slices; what they lose is added up.
        kept: The slices that stay, (count,).
        groups: The slices come in so many equal runs.
        swaps: Exchanges at most.
        ridge: As of `eliminated`.

    Returns:
        The slices that stay, ascending, (count,).

    Source:
        Meng et al., OSSCAR: One-Shot Structured Pruning in Vision and Language Models with
        Combinatorial Optimization, ICML 2024, arXiv:2403.12983, section 3.2. Differs: it starts
        from an elimination and not from magnitudes; all costs are kept up to date by sweeps, see
        Goodnight, A Tutorial on the SWEEP Operator, The American Statistician 1979.
    """
    tables = [_Table(reader, kept, ridge) for reader in readers]
    size = len(readers[0].index)
    stays = torch.zeros(size, dtype=torch.bool)
    stays[kept] = True
    for group in torch.arange(size).view(groups, -1):
        for _ in range(swaps):
            if not any(_improved(tables, group, stays, order) for order in ORDERS):
                break
    return stays.nonzero().flatten()


def _improved(
    tables: Sequence[_Table], group: Tensor, stays: Tensor, order: tuple[bool, bool]
) -> bool:
    """Exchange two slices of a group if that leaves less; else leave all as it was.

    Args:
        tables: What the slices are worth.
        group: The slices to look among.
        stays: Which slices stay; written to.
        order: Whether each of the two steps takes a slice out.
    """
    gained, moved = 0.0, []
    for out in order:
        worth = _worth(tables)[group]
        there = stays[group]
        if bool((there != out).all()):  # nothing to take in, or out
            break
        chosen = (
            worth.masked_fill(~there, torch.inf).argmin()
            if out
            else worth.masked_fill(there, -torch.inf).argmax()
        )
        gained += float(worth[chosen]) * (-1 if out else 1)
        moved.append(int(group[chosen]))
        _sweep(tables, moved[-1], stays)
    if len(set(moved)) == 2 and gained > GAIN * float(_worth(tables).sum()):
        return True
    for slice_ in reversed(moved):
        _sweep(tables, slice_, stays)
    return False


def _worth(tables: Sequence[_Table]) -> Tensor:
    """Return what each slice spares: of those that stay, what removing it would cost."""
    return torch.stack([table.worth() for table in tables]).sum(0).cpu()


def _sweep(tables: Sequence[_Table], slice_: int, stays: Tensor) -> None:
    """Take one slice in, or out if it is in."""
    for table in tables:
        table.sweep(slice_, out=bool(stays[slice_]))
    stays[slice_] = ~stays[slice_]


class _Table:
    """The regression of what one reader returns on the slices that stay, as a swept matrix.

    Of the slices that stay (K) and the others (S), with H the covariance of what is read:

        values = [-H_KK^-1, H_KK^-1 H_KS; H_SK H_KK^-1, H_SS - H_SK H_KK^-1 H_KS]
        square = X G X^T, where X has the coefficients of K, and of S the covariance with what is
                 left over
    """

    def __init__(self, reader: Reader, kept: Tensor, ridge: float):
        self._width = k = reader.index.shape[1]
        columns = reader.index.flatten().to(reader.gram.device)
        covariance = damped(part(reader.covariance, columns).double(), ridge)
        size = len(reader.index)
        inside = torch.zeros(size, dtype=torch.bool)
        inside[kept] = True
        there = inside.repeat_interleave(k).nonzero().flatten().to(columns.device)
        rest = (~inside).repeat_interleave(k).nonzero().flatten().to(columns.device)
        inverse = torch.linalg.inv(covariance[there][:, there])
        across = covariance[rest][:, there] @ inverse
        self._values = torch.empty_like(covariance)
        change = torch.eye(len(columns)).to(covariance)  # from H W^T to X
        change[there.unsqueeze(1), there] = inverse
        change[rest.unsqueeze(1), there] = -across
        self._values[there.unsqueeze(1), there] = -inverse
        self._values[rest.unsqueeze(1), there] = across
        self._values[there.unsqueeze(1), rest] = across.T
        left = covariance[rest][:, rest] - across @ covariance[there][:, rest]
        self._values[rest.unsqueeze(1), rest] = left
        target = change @ covariance
        self._square = target @ part(reader.gram, columns).double() @ target.T

    def worth(self) -> Tensor:
        """Return what each slice spares, (size,)."""
        own, squares = (self._blocks(matrix) for matrix in (self._values, self._square))
        if self._width == 1:
            return (squares / own.abs()).flatten()
        solved: Tensor = torch.linalg.solve(own, squares).diagonal(dim1=1, dim2=2).sum(1)
        return solved.abs()

    def sweep(self, slice_: int, *, out: bool) -> None:
        """Take a slice in, or out."""
        p = slice(slice_ * self._width, (slice_ + 1) * self._width)
        inverse = torch.linalg.inv(self._values[p, p])
        column, cross = self._values[:, p].clone(), self._square[:, p].clone()
        moved, own = column @ inverse, cross[p].clone()
        self._values -= moved @ column.T
        self._square -= moved @ cross.T + (cross - moved @ own) @ moved.T
        sign = -1 if out else 1
        self._values[:, p] = sign * moved
        self._values[p] = sign * moved.T
        self._values[p, p] = -inverse
        turned = sign * (cross - moved @ own) @ inverse
        self._square[:, p] = turned
        self._square[p] = turned.T
        self._square[p, p] = inverse @ own @ inverse

    def _blocks(self, matrix: Tensor) -> Tensor:
        """Return the blocks on a diagonal, (size, k, k)."""
        k, size = self._width, len(matrix) // self._width
        return matrix.view(size, k, size, k).diagonal(dim1=0, dim2=2).movedim(-1, 0)
