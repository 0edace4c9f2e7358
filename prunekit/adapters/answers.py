"""What an adapter is asked, and whether its answers make sense.

Adapters are other people's code, so nothing calls their methods but what is here: whatever they
raise or return, the message names them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..axis import AxisSpec, Fold, Places, Tie
from ..errors import AdapterError, PruneError
from ..plugin import calling, shown, titled
from .base import Adapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..arguments import Inputs


MOST = 2**31  # positions on a dimension


def title(adapter: Adapter) -> str:
    """Return what an adapter is called at the start of a sentence."""
    return titled("adapter", adapter.name, adapter.origin)


@contextmanager
def _asking(adapter: Adapter, method: str) -> Iterator[None]:
    with calling(f"{title(adapter)}, asked for its {method}(),", adapter.name, AdapterError):
        yield


def matches(adapter: Adapter, model: nn.Module) -> bool:
    """Ask whether an adapter knows a model.

    Raises:
        AdapterError: It failed.
    """
    with _asking(adapter, "matches"):
        return bool(adapter.matches(model))


def axes_of(adapter: Adapter, model: nn.Module) -> list[AxisSpec]:
    """Ask what may shrink, of all kinds.

    Raises:
        AdapterError: The adapter failed, does not know the model, or declares what cannot be.
    """
    try:
        with _asking(adapter, "axes"):
            specs = _listed(adapter, "axes", adapter.axes(model), AxisSpec)
    except AdapterError as error:
        own_words = isinstance(error.__cause__, PruneError) or error.__cause__ is None
        if own_words or matches(adapter, model):
            raise
        raise AdapterError(
            f"{title(adapter)} does not know {type(model).__name__}; leave the adapter out, or "
            "write one for it."
        ) from error
    if not specs:
        raise AdapterError(
            f"{title(adapter)} declares no axes of {type(model).__name__}, so nothing can shrink; "
            "let its axes() return some."
        )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules, names = dict(model.named_modules()), set[str]()
    for spec in specs:
        problem = _problem(spec, adapter, tensors, modules)
        if not problem and spec.name in names:
            problem = "which another axis is called too"
        if problem:
            raise AdapterError(
                f"{title(adapter)} declares an axis {shown(spec.name)}, {problem}; correct its "
                "axes()."
            )
        names.add(spec.name)
    return specs


def seeing(adapter: Adapter, model: nn.Module, example: Inputs) -> Adapter:
    """Let an adapter look at a model before it is asked about it.

    Raises:
        AdapterError: It failed, or it does not return an adapter.
    """
    with _asking(adapter, "seeing"):
        found: object = adapter.seeing(model, example)
        if isinstance(found, Adapter):
            return found
        raise _unfit(adapter, "seeing", found, "an adapter")


def role_of(adapter: Adapter, parameter: str) -> str:
    """Ask what a weight matrix does.

    Raises:
        AdapterError: The adapter failed, or its answer is not a word.
    """
    with _asking(adapter, "role"):
        role = adapter.role(parameter)
        if not isinstance(role, str):
            raise _unfit(adapter, "role", role, "a word")
        return role


def unfollowed_by(adapter: Adapter, model: nn.Module) -> list[str]:
    """Ask what the graph must not follow.

    Raises:
        AdapterError: The adapter failed, or does not list names.
    """
    with _asking(adapter, "unfollowed"):
        return _listed(adapter, "unfollowed", adapter.unfollowed(model), str)


def default_kinds_of(adapter: Adapter, model: nn.Module) -> tuple[str, ...]:
    """Return the kinds that shrink unless others are asked for, as far as the model has them."""
    there = {spec.kind for spec in axes_of(adapter, model)}
    return tuple(kind for kind in adapter.default_kinds if kind in there)


def blocks_of(adapter: Adapter, model: nn.Module) -> list[str]:
    """Ask which modules run one after the other.

    Raises:
        AdapterError: The adapter failed, or names a module that is not there.
    """
    with _asking(adapter, "blocks"):
        blocks = _listed(adapter, "blocks", adapter.blocks(model), str)
    modules = dict(model.named_modules())
    missing = next((name for name in blocks if name not in modules), None)
    if missing is not None:
        raise AdapterError(
            f"{title(adapter)} names a block {missing!r}, which {type(model).__name__} does not "
            "have; correct its blocks()."
        )
    return blocks


def fixup_(adapter: Adapter, model: nn.Module, left: Mapping[str, int]) -> None:
    """Let an adapter reset what a smaller model caches about its own shape.

    Raises:
        AdapterError: The adapter failed.
    """
    with _asking(adapter, "fixup"):
        adapter.fixup(model, left)


def settle_(adapter: Adapter, model: nn.Module, left: Mapping[str, Mapping[int, Tensor]]) -> None:
    """Let an adapter reset what depends on which positions of a smaller model are left.

    Raises:
        AdapterError: The adapter failed.
    """
    with _asking(adapter, "settle"):
        adapter.settle(model, left)


def toy_of(adapter: Adapter) -> tuple[nn.Module, Tensor]:
    """Ask for a small model and a batch of inputs.

    Raises:
        AdapterError: The adapter failed, or has none.
    """
    from torch import Tensor, nn

    with _asking(adapter, "toy"):
        toy: object = adapter.toy()
        if isinstance(toy, tuple) and len(toy) == 2:
            model, batch = toy
            if isinstance(model, nn.Module) and isinstance(batch, Tensor):
                return model, batch
        raise _unfit(adapter, "toy", toy, "a model and a batch of inputs")


def _listed(adapter: Adapter, method: str, answer: object, kind: type[Any]) -> list[Any]:
    """Return an answer as a list; a single word is iterable too, but no list of words."""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise _unfit(adapter, method, answer, f"a list of {kind.__name__}")
    items = list(answer)
    for item in items:
        if not isinstance(item, kind):
            raise _unfit(adapter, method, item, f"a list of {kind.__name__} only")
    return items


def _unfit(adapter: Adapter, method: str, answer: object, expected: str) -> AdapterError:
    return AdapterError(
        f"{title(adapter)} returned {shown(answer)} from {method}(); expected {expected}."
    )


def _problem(
    spec: AxisSpec, adapter: Adapter, tensors: Mapping[str, Tensor], modules: Mapping[str, Any]
) -> str | None:
    """Say what is wrong with an axis, if anything; the graph finds out about its layer."""
    if not isinstance(spec.name, str) or not spec.name:
        return "whose name is not a word"
    if spec.kind not in adapter.kinds:
        return f"whose kind {shown(spec.kind)} is missing from its kinds"
    if spec.layer is None and not spec.ties:
        return "which names neither a layer nor ties"
    if spec.side not in ("in", "out"):
        return f"whose side is {shown(spec.side)}, neither 'in' nor 'out'"
    if not isinstance(spec.groups, int) or spec.groups < 1:
        return f"whose groups are {shown(spec.groups)}, not 1 or more"
    if spec.owner is not None and spec.owner not in modules:
        return f"whose owner {shown(spec.owner)} is no module of the model"
    if spec.fold is not None and (problem := _fold_problem(spec.fold)):
        return problem
    return next(filter(None, (_tie_problem(tie, tensors) for tie in spec.ties)), None)


def _tie_problem(tie: Tie, tensors: Mapping[str, Tensor]) -> str | None:
    if not isinstance(tie, Tie):
        return f"with {shown(tie)} among its ties, which is not a Tie"
    if tie.parameter not in tensors:
        return f"tied to {shown(tie.parameter)}, which is no parameter or buffer of the model"
    shape = tuple(tensors[tie.parameter].shape)
    if not isinstance(tie.dim, int) or not 0 <= tie.dim < len(shape):
        return f"tied to dimension {shown(tie.dim)} of {tie.parameter!r}, whose shape is {shape}"
    fold = tie.fold
    if isinstance(fold, Places):
        inside = all(0 <= position < shape[tie.dim] for row in fold.rows for position in row)
        equal = len(set(map(len, fold.rows))) == 1
        said = None if inside and equal else f"{len(fold.rows)} rows of places"
    elif problem := _fold_problem(fold):
        return problem
    else:
        said = f"the layout {fold.layout}" if math.prod(fold.layout) != shape[tie.dim] else None
    if said:
        return (
            f"tied to dimension {tie.dim} of {tie.parameter!r} by {said}, though its shape is "
            f"{shape}"
        )
    return None


def _fold_problem(fold: Fold) -> str | None:
    if not isinstance(fold, Fold):
        return f"folded by {shown(fold)}, which is not a Fold"
    factors = range(len(fold.layout))
    counts = all(isinstance(n, int) and n > 0 for n in fold.layout)
    along = set(fold.along)
    once = len(along) == len(fold.along)
    if not factors or not counts or not along or not once or not along <= set(factors):
        return f"folded along {fold.along} of the layout {fold.layout}"
    if math.prod(fold.layout) > MOST:
        return f"folded by the layout {fold.layout}, which no dimension is as long as"
    if fold.take is not None and (0 in along or not set(fold.take) <= set(range(fold.layout[0]))):
        return f"folded by taking {fold.take} of the layout {fold.layout} along {fold.along}"
    return None
