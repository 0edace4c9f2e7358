"""What an adapter is: all that prunekit knows about one family of models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..axis import AxisSpec
from ..errors import AdapterError
from ..plugin import calling, shown, titled
from ..registry import unknown
from . import ADAPTERS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..arguments import Inputs

    M = TypeVar("M", bound=nn.Module)


class Adapter(ABC):
    """One family: which dimensions may shrink, and what to put right afterwards.

    Nothing is prunable unless `axes` declares it. An adapter holds no state; register an
    instance with `register`, or pass one to `prune(adapter=...)`.
    """

    name: str
    aliases: ClassVar[Mapping[str, str]] = {}
    """Short architecture names, to the timm names they stand for."""
    kinds: tuple[str, ...]
    """Every kind of axis it can declare."""
    default_kinds: tuple[str, ...]
    """The kinds that are pruned unless others are asked for."""
    guesses: ClassVar[bool] = False
    """Whether it does not know the family, so that it takes more to prove what it says."""

    @property
    def origin(self) -> str:
        """Where its class was defined, as "module:name"."""
        return f"{type(self).__module__}:{self.name}"

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Say whether this adapter knows `model`."""

    @abstractmethod
    def axes(self, model: nn.Module) -> list[AxisSpec]:
        """Declare what may shrink, of all kinds, reading sizes off the model as it is.

        Raises:
            AdapterError: The model has a layer of a sort the adapter does not know.
        """

    def seeing(self, model: nn.Module, example: Inputs) -> Adapter:
        """Return what this adapter is for one model: itself, unless it has to look at it first.

        Args:
            model: The model that `axes` will be asked about, or one that was cut out of it later.
            example: One batch of inputs: a tensor, or several as `prune` takes them.
        """
        return self

    def role(self, parameter: str) -> str:
        """Return what a weight matrix does; `aux` ones have no say in the scores.

        Only called for parameters of two and more dimensions; all others are `aux`.
        """
        return "weight"

    def unfollowed(self, model: nn.Module) -> Iterable[str]:
        """Name parameters, or whole modules, that the graph must not couple to any axis."""
        return ()

    def blocks(self, model: nn.Module) -> list[str]:
        """Name modules that run one after the other, each on the output of the one before alone.

        A repair then works through the model block by block, and holds the input of one block
        at a time. Without blocks it runs the whole model for every layer, which is as right, but
        slow for deep models.
        """
        return []

    def fixup(self, model: nn.Module, left: Mapping[str, int]) -> None:  # noqa: B027  (optional)
        """Reset what the model caches about its own shape, once it is smaller.

        Args:
            model: The shrunken model; its parameters have their new shapes.
            left: How many slices are left, per group, of every axis that was pruned.
        """

    def settle(  # noqa: B027  (optional)
        self, model: nn.Module, left: Mapping[str, Mapping[int, Tensor]]
    ) -> None:
        """Reset what depends on which positions of a tensor are left, and not on how many.

        Args:
            model: The shrunken model, after `fixup`.
            left: Tensor and dimension to the positions that are left, ascending.
        """

    def toy(self) -> tuple[nn.Module, Tensor]:
        """Return a small model of the family and a batch of two inputs, to be tested with.

        Raises:
            AdapterError: This adapter has none.
        """
        raise AdapterError(
            f"Adapter {self.name!r} has no toy(), which the conformance checks need; "
            "return a small model and a batch of inputs from it."
        )


A = TypeVar("A", bound=Adapter)


def register(adapter: A) -> A:
    """Register an adapter under its own name, and return it.

    Raises:
        RegistryError: Another adapter has the name.
        AdapterError: It does not declare what an adapter must.
    """
    check_declared(adapter)
    ADAPTERS.add(adapter.name, adapter)
    return adapter


def name_of(adapter: Adapter) -> str:
    found = getattr(adapter, "name", None)
    return found if isinstance(found, str) else type(adapter).__name__


def check_declared(adapter: Adapter) -> None:
    """Make sure that an adapter declares what it must.

    Raises:
        AdapterError: It does not, or it is no adapter.
    """
    if not isinstance(adapter, Adapter):
        raise AdapterError(
            f"Expected an adapter or its name, got {shown(adapter)}; pass an instance of a class "
            "that is derived from prunekit.Adapter."
        )
    who = titled("adapter", name_of(adapter), type(adapter).__module__)
    with calling(who, name_of(adapter), AdapterError):
        problem = _undeclared(adapter)
    if problem:
        raise AdapterError(f"{who} {problem}; declare it in its class.")


def _undeclared(adapter: Adapter) -> str | None:
    words = {what: getattr(adapter, what, None) for what in ("kinds", "default_kinds")}
    if not isinstance(getattr(adapter, "name", None), str) or not adapter.name:
        return "has no name, a word of its own"
    for what, given in words.items():
        listed = isinstance(given, tuple | list) and all(isinstance(word, str) for word in given)
        if not listed:
            return f"has {what} of {shown(given)}, where a tuple of words is expected"
    unknown_kinds = [kind for kind in adapter.default_kinds if kind not in adapter.kinds]
    if unknown_kinds:
        return f"has {unknown_kinds[0]!r} among its default_kinds that is not among its kinds"
    if not isinstance(adapter.aliases, Mapping):
        return f"has aliases of {shown(adapter.aliases)}, where a mapping is expected"
    return None


def module(model: nn.Module, name: str, *types: type[M]) -> M:
    """Return a sub-module, making sure that it is of a type the adapter knows.

    Raises:
        AdapterError: It is missing or of another type.
    """
    try:
        found: object = model.get_submodule(name)
    except AttributeError:
        found = None
    if not isinstance(found, types):
        expected = " or ".join(t.__name__ for t in types)
        raise AdapterError(
            f"{type(model).__name__}.{name} is {type(found).__name__}; expected {expected}. "
            "Write an adapter for this variant (docs/own_adapter.md), and register it or pass it "
            "as adapter."
        )
    return found


def stage_blocks(model: nn.Module, stages: str) -> list[str]:
    """Name the blocks of a hierarchical model of timm: per stage, downsampling comes first."""
    from torch.nn import Identity

    names = []
    for number, stage in enumerate(model.get_submodule(stages).children()):
        name = f"{stages}.{number}"
        if not isinstance(stage.get_submodule("downsample"), Identity):
            names.append(f"{name}.downsample")
        names += [f"{name}.blocks.{block}" for block, _ in stage.blocks.named_children()]  # type: ignore[union-attr]
    return names


def select(specs: Sequence[AxisSpec], kinds: Sequence[str], adapter: Adapter) -> list[AxisSpec]:
    """Keep the axes of the given kinds.

    Raises:
        AdapterError: The adapter has no such kind, or this model has no such axis.
    """
    for kind in kinds:
        if kind not in adapter.kinds:
            raise AdapterError(
                unknown(f"kind of axis of adapter {adapter.name!r}", kind, list(adapter.kinds))
            )
        if not any(spec.kind == kind for spec in specs):
            raise AdapterError(
                f"This model has no axis of kind {kind!r} (adapter {adapter.name!r}); "
                f"it has {', '.join(dict.fromkeys(spec.kind for spec in specs))}."
            )
    return [spec for spec in specs if spec.kind in kinds]
