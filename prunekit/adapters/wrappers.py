"""What to do with a wrapper that no adapter knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


WRAPPED = ("module", "_orig_mod", "ema")  # where wrappers keep what they wrap


def inside(model: object, known: Callable[[nn.Module], bool]) -> str | None:
    """Say how to prune the model that an adapter knows inside a wrapper.

    DataParallel, torch.compile, averages of weights and the like hold the model they wrap as a
    part of theirs, under names of their own.

    Args:
        model: The wrapper.
        known: Whether some adapter knows a model.

    Returns:
        Such as "pass model.module"; None if there is no such model inside, and no other model under
        a name that wrappers use.
    """
    if callable(getattr(model, "merge_and_unload", None)):  # PEFT has put layers of its own in
        return "pass model.merge_and_unload()"
    path = next((path for path, part in _parts(model) if known(part)), None)
    if path is None:
        path = next((path for path, _ in _parts(model) if path in WRAPPED), None)
    if path is None:
        return None
    names = path.split(".")
    plain = all(name.isidentifier() for name in names)
    passed = f"pass model.{path}" if plain else f"pass model.get_submodule({path!r})"
    if set(names) <= set(WRAPPED):
        return passed
    return f"{passed}, or add at={path!r} to prune it where it is"


def _parts(model: object) -> Iterator[tuple[str, nn.Module]]:
    from torch import nn

    if isinstance(model, nn.Module):
        yield from ((path, part) for path, part in model.named_modules() if path)
        return
    for name, part in getattr(model, "__dict__", {}).items():  # timm's ModelEma is no module
        if isinstance(part, nn.Module):
            yield name, part
