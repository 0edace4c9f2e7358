"""An architecture that a file names, built only if the weights beside it show that it may be."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import ArtifactError, PruneError
from .architectures import ARGUMENTS, Architecture

Shape = tuple[int, ...]
# Parameters that are registered while a model is built: more than it has in the end, where timm
# puts one layer in the place of another.
TRIES, SPARE_TRIES = 4, 1000
# How many times as many values as its small model has a large one may have.
TIMES, SPARE_VALUES = 1000, 2**24


def build_named(
    architecture: Architecture,
    small: Mapping[str, Shape],
    where: str,
    *,
    shallower: bool = False,
    plain: Collection[str] = (),
) -> nn.Module:
    """Build what an architecture of unknown origin says, with random weights.

    It is built without memory first, and compared with the small model's weights.

    Args:
        architecture: From a file.
        small: Name to shape of every tensor that was left of it.
        where: What to call the file in a sentence.
        shallower: Whether residual branches have left, with constants in their place.
        plain: Names of layers that were made plain, and lack what they computed their weight from.

    Raises:
        ArtifactError: It is no architecture that prunekit writes, or not that of these weights.
    """
    _check_registered(architecture, where)
    with explained(where):
        with torch.device("meta"), _at_most(TRIES * len(small) + SPARE_TRIES):
            shell = architecture.build()
        large = {n: tuple(t.shape) for n, t in shell.state_dict().items()}
        lost = {n for n in large if n not in small and n.rpartition(".")[0] in plain}
        there = {n: shape for n, shape in large.items() if n not in lost}
        _check_larger(there, small, where, shallower=shallower)
        return architecture.build()


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Say in a sentence that what a file describes cannot be built.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        yield
    except PruneError:
        raise
    except Exception as error:  # timm's classes raise whatever their arguments lead to
        reason = str(error).partition("\n")[0][:100]
        raise ArtifactError(
            f"The model in {where} cannot be built ({type(error).__name__}: {reason}); save it "
            "again with this version of prunekit and of timm."
        ) from error


def _check_registered(architecture: Architecture, where: str) -> None:
    """Refuse what timm would fetch or read files for; ours need none of that."""
    if architecture.card is not None:
        return
    import timm

    if architecture.timm is None or not timm.is_model(architecture.timm):
        raise ArtifactError(
            f"The architecture in {where} is {architecture.timm!r}, which timm {timm.__version__} "
            "does not have; install the version of timm it was saved with."
        )
    others = sorted(set(architecture.args) - ARGUMENTS)
    if others:
        raise ArtifactError(
            f"The architecture in {where} has arguments that prunekit never writes: "
            f"{', '.join(others)}. Do not trust it."
        )


def _check_larger(
    large: Mapping[str, Shape], small: Mapping[str, Shape], where: str, *, shallower: bool
) -> None:
    odd = [name for name in [*small, *large] if (name in small) != (name in large)]
    if shallower:
        odd = [name for name in odd if name in small and not name.endswith(".bias")]
    odd += [name for name, shape in small.items() if name in large and not _in(shape, large[name])]
    most = TIMES * _values(small) + SPARE_VALUES
    if odd:
        raise ArtifactError(
            f"The weights in {where} do not fit its plan: {odd[0]} cannot be what is left of the "
            "architecture; save it again."
        )
    if _values(large) > most:
        raise ArtifactError(
            f"The architecture in {where} has {_values(large):,} values and the weights "
            f"{_values(small):,}, which no pruning leaves; do not trust it."
        )


def _in(small: Shape, large: Shape) -> bool:
    pairs = zip(small, large, strict=False)
    return len(small) == len(large) and all(own <= most for own, most in pairs)


def _values(shapes: Mapping[str, Shape]) -> int:
    return sum(map(math.prod, shapes.values()))


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Stop the building of a model that has more parameters than that, which takes long."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1
        if count > parameters:
            raise ArtifactError(
                "The architecture has many more layers than the weights beside it; do not trust it."
            )

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
