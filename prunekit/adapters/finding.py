"""Which adapter knows a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import AdapterError, PruneError
from . import ADAPTERS
from .answers import axes_of, matches, title
from .base import Adapter, check_declared, name_of
from .wrappers import inside

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

ANY = "auto"  # the adapter that takes any model


def usable() -> list[Adapter]:
    """Return all adapters, but those that are broken; of these, a warning tells."""
    found = []
    for adapter in ADAPTERS.usable():
        try:
            check_declared(adapter)
        except AdapterError as error:
            ADAPTERS.pass_over(name_of(adapter), error)
        else:
            found.append(adapter)
    return found


def adapter_for(model: nn.Module) -> Adapter:
    """Return the adapter that knows `model`, or `auto`; one that fails to say so is passed over.

    Raises:
        AdapterError: None does, and there is a known model inside; the message says what to pass.
    """
    known = usable()  # asked once: finding out what is installed reads files
    found = _knowing(model, known)
    if found is not None:
        return found
    within = inside(model, lambda part: _knowing(part, known) is not None)
    if within is None and hasattr(model, "named_modules"):
        return ADAPTERS.get(ANY)
    advice = f"It wraps a model: {within}." if within else "Pass a torch module."
    broken = "".join(f" Passed over: {reason}" for reason in ADAPTERS.broken.values())
    raise AdapterError(
        f"No adapter knows {type(model).__name__}; known: "
        f"{', '.join(adapter.name for adapter in known)}. {advice}{broken}"
    )


def find_adapter(adapter: str | Adapter | None, model: nn.Module) -> Adapter:
    """Return the adapter that was named or passed, or the one that knows `model`.

    Raises:
        RegistryError: Nothing has that name.
        AdapterError: It does not know the model, or none does.
    """
    if adapter is None:
        return adapter_for(model)
    found = ADAPTERS.get(adapter) if isinstance(adapter, str) else adapter
    check_declared(found)
    if isinstance(adapter, str) and not matches(found, model):
        raise AdapterError(
            f"{title(found)} does not know {type(model).__name__}; leave the adapter out, or "
            "write one for it."
        )
    return found


def able(adapter: Adapter, model: nn.Module) -> tuple[Adapter, tuple[str, ...]]:
    """Return an adapter, or `auto` in its place if it refuses a variant; and a word about that.

    Raises:
        AdapterError: The adapter failed otherwise.
    """
    if adapter.guesses:
        return adapter, ()
    try:
        axes_of(adapter, model)
    except AdapterError as error:
        if not isinstance(error.__cause__, PruneError):  # a fault of its own
            raise
        told = f"{error.__cause__} Until then, the adapter {ANY!r} is used in its place."
        return ADAPTERS.get(ANY), (told,)
    return adapter, ()


def knowing(model: nn.Module) -> Adapter | None:
    """Return the adapter of the family that a model is of, if there is one."""
    return _knowing(model, usable())


def _knowing(model: nn.Module, among: Iterable[Adapter]) -> Adapter | None:
    for adapter in among:
        if adapter.name == ANY:  # the last resort
            continue
        try:
            if matches(adapter, model):
                return adapter
        except AdapterError as error:
            ADAPTERS.pass_over(adapter.name, error)
    return None
