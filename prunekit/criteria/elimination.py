"""Elimination: which slices a linear map misses least once the others have made up for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 256  # columns whose removal is carried out together
RIDGE = 0.01  # of the covariance's mean diagonal


@dataclass(frozen=True)
class Reader:
    """A linear map that reads the slices, as a quadratic form of what it loses; in float64.

    Attributes:
        gram: W^T G W, (columns, columns), where G says what an error of the outputs costs.
        covariance: Of what the map multiplies, (columns, columns).
        index: The columns that each slice owns, (size, k).
    """

    gram: Tensor
    covariance: Tensor
    index: Tensor


@dataclass(frozen=True)
class Elimination:
    """The order in which slices leave, and what each of them adds to the cost.

    Attributes:
        order: Slices, the first to leave first, (size,).
        costs: What each step adds, (size,), 0 or more.
    """

    order: Tensor
    costs: Tensor


def eliminated(readers: Sequence[Reader], ridge: float = RIDGE) -> Elimination:
    """Remove all slices, each time the one whose removal costs least after compensation.

    Where the columns S of the weight W leave and the others are refitted, the error of the
    outputs is tr(W_S [(H^-1)_SS]^-1 W_S^T) with H the covariance of what is read. Removing one
    slice q after the other and compensating each time adds up to exactly that:

        cost(q) = tr(W_q D W_q^T), where D = [(H^-1)_qq]^-1
        W <- W - W_q D (H^-1)_q:  and  H^-1 <- H^-1 - (H^-1)_:q D (H^-1)_q:

    Only W^T G W occurs in the costs, so that is what is updated. All counts follow from this one
    elimination, in O(columns^3); updates are gathered and carried out `AT_ONCE` columns together,
    on what is left.

    Args:
        readers: The maps; their costs are added up.
        ridge: Added to the diagonal of each covariance, as a fraction of its mean. Few images
            leave many directions empty, along which compensation would be arbitrarily large.

    Source:
        Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon,
        NIPS 1992; for groups of weights Frantar, Singh and Alistarh, Optimal Brain Compression,
        NeurIPS 2022, arXiv:2208.11580, Eq. 7, and Kurtic, Frantar and Alistarh, ZipLM,
        NeurIPS 2023, arXiv:2302.04089.
    """
    running = [_Running(reader, ridge) for reader in readers]
    size = len(readers[0].index)
    left = torch.arange(size)
    order, costs = [], []
    while len(left):
        total = torch.stack([one.costs() for one in running]).sum(0)
        steps = max(1, AT_ONCE // max(one.width for one in running))
        gone = torch.zeros(len(left), dtype=torch.bool)
        for _ in range(min(steps, len(left))):
            total[gone] = torch.inf
            q = int(total.argmin())
            order.append(int(left[q]))
            costs.append(float(total[q]))
            gone[q] = True
            for one in running:
                one.remove(q)
            total = torch.stack([one.costs() for one in running]).sum(0)
        for one in running:
            one.settle(~gone)
        left = left[~gone]
    return Elimination(torch.tensor(order), torch.tensor(costs, dtype=torch.float64).clamp(min=0))


class _Running:
    """One reader, as far as it has been eliminated; slices are numbered among those left."""

    def __init__(self, reader: Reader, ridge: float):
        self.width = reader.index.shape[1]
        columns = reader.index.flatten().to(reader.gram.device)
        self._gram = part(reader.gram, columns).double()  # (size * k, size * k)
        self._inverse = _inverse(part(reader.covariance, columns).double(), ridge)
        self._start()

    def _start(self) -> None:
        """Note the blocks on the diagonals, and that no update is outstanding."""
        self._grams, self._inverses = (self._blocks(m) for m in (self._gram, self._inverse))
        # Outstanding are -E G^T on the inverse, and -A G^T - G A^T on the Gram matrix.
        most = max(self.width, AT_ONCE)
        self._panels = self._gram.new_empty(3, len(self._gram), most)
        self._used = 0

    @property
    def _outstanding(self) -> tuple[Tensor, Tensor, Tensor]:
        e, g, a = self._panels[:, :, : self._used]
        return e, g, a

    def _blocks(self, matrix: Tensor) -> Tensor:
        """Return the blocks on a diagonal, (size, k, k)."""
        k, size = self.width, len(matrix) // self.width
        return matrix.view(size, k, size, k).diagonal(dim1=0, dim2=2).movedim(-1, 0)

    def costs(self) -> Tensor:
        """Return what removing each slice would cost now, (size,)."""
        if self.width == 1:
            return (self._grams / self._inverses).flatten()
        solved: Tensor = torch.linalg.solve(self._inverses, self._grams)
        return solved.diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, q: int) -> None:
        """Remove one slice and let the others make up for it."""
        k = self.width
        own = slice(q * k, (q + 1) * k)
        before_e, before_g, before_a = self._outstanding
        e = self._inverse[own].T - before_e @ before_g[own].T  # (columns, k)
        m = self._gram[own].T - before_a @ before_g[own].T - before_g @ before_a[own].T
        g = torch.linalg.solve(e[own], e.T).T  # e D
        a = m - g @ m[own] / 2
        self._panels[:, :, self._used : self._used + k] = torch.stack([e, g, a])
        self._used += k
        e, g, a = (part.reshape(-1, k, k) for part in (e, g, a))
        self._inverses = self._inverses - e @ g.mT
        self._grams = self._grams - a @ g.mT - g @ a.mT
        self._inverses[q] = torch.eye(
            k, dtype=e.dtype, device=e.device
        )  # it is gone; nothing is divided by zero

    def settle(self, left: Tensor) -> None:
        """Carry out what is outstanding, on the slices that are left."""
        columns = left.repeat_interleave(self.width).nonzero().flatten().to(self._gram.device)
        e, g, a = self._panels[:, columns, : self._used]
        self._inverse = part(self._inverse, columns).addmm_(e, g.T, alpha=-1)
        self._gram = part(self._gram, columns).addmm_(a, g.T, alpha=-1).addmm_(g, a.T, alpha=-1)
        self._start()


def part(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return the rows and columns of a symmetric matrix."""
    return matrix.index_select(0, columns).index_select(1, columns)


def damped(covariance: Tensor, ridge: float) -> Tensor:
    """Return a covariance with a ridge, positive definite; of zeros, the identity."""
    spread = covariance.diagonal().mean()
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    if spread <= 0:
        return eye
    raised = covariance + ridge * spread * eye
    if not torch.linalg.cholesky_ex(raised).info:
        return raised
    # Rounding made empty directions slightly negative, by more than the ridge makes up for.
    values, vectors = torch.linalg.eigh(covariance)
    found: Tensor = vectors * (values.clamp(min=0) + ridge * spread) @ vectors.T
    return found


def _inverse(covariance: Tensor, ridge: float) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(damped(covariance, ridge)))
