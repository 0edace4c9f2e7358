"""An adapter that misbehaves is refused, or its result computes what masking computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import Fold, PruneError, Tie, prune

from ..models import SmallAdapter, first, small
from ..outcome import OK, Outcome, broken, traceback
from ..sandbox import in_child
from ..scene import Scene
from ..strategies.adapters import Case
from ..strategies.plugins import EXCEPTIONS

NAME = SmallAdapter.name


def examine(scene: Scene, case: Case) -> Outcome:
    """Prune a model with the adapter, and compare the result with the masked model."""

    def work() -> dict[str, Any]:
        model, inputs = small(case.shape)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        told: dict[str, Any] = {"error": None, "parity": True, "wrong": None, "raised": False}
        try:
            result = prune(
                model, "magnitude", 0.4, by="slices", axes=case.axes, multiple=1, steps=case.steps,
                adapter=made(case, told), example_input=inputs, floor=0.0,
            )  # fmt: skip
            told["parity"] = result.parity.holds
            told["wrong"] = _compare(case, model, result)
        except PruneError as refusal:
            told["error"] = str(refusal)
        after = model.state_dict()
        told["changed"] = [n for n in before if not torch.equal(after[n], before[n])]
        return told

    with scene.sandbox() as cwd:
        ran = in_child(work, cwd)
    wrong = broken(ran)
    if wrong:
        return wrong
    if ran.raised is not None:
        return traceback(ran) or Outcome("traceback", "SystemExit goes through", str(ran.raised))
    return _judged(case, ran.value)


def _judged(case: Case, told: dict[str, Any]) -> Outcome:
    if told["changed"]:
        return Outcome("changed model", "the caller's", str(told["changed"][:3]))
    error = told["error"]
    if error is None:
        if told["raised"]:
            return Outcome("silent wrong", f"{case.method} raises, and nobody says so")
        if not told["parity"]:
            return Outcome("silent wrong", "parity does not hold")
        return Outcome("silent wrong", told["wrong"], repr(case)) if told["wrong"] else OK
    if "\n" in error or not error.isprintable():
        return Outcome("words", "not one printable line", repr(error))
    if case.right and "half a step" not in error and "out of reach" not in error:
        return Outcome("silent wrong", "a right adapter is refused", error)
    if told["raised"] and NAME not in error:
        return Outcome("unnamed", f"{case.method} raises", error)
    return Outcome("refused", "", error)


@torch.no_grad()
def _compare(case: Case, model: Any, result: Any) -> str | None:
    """Mask the hidden channels that are gone, by hand, and compare on other inputs."""
    _, inputs = small(case.shape)
    inputs = torch.flip(inputs, [0]) * 1.5 + 0.1
    found = first(result.model(inputs))
    dense = first(model(inputs))
    if found.shape != dense.shape:
        return "another shape of output"
    if not bool(found.isfinite().all()):
        return "an output that is not finite"
    kept: Mapping[str, tuple[int, ...]] = result.plan.kept
    hidden = [name for name in kept if name.startswith("blocks.")]
    if len(hidden) != len(kept) or case.spec or case.meddles:
        return None  # the width's norms do not let it be masked by hand
    masked = copy.deepcopy(model)
    for name in hidden:
        gone = [i for i in range(case.shape.hidden) if i not in kept[name]]
        masked.get_submodule(f"{name}.down").weight[:, gone] = 0
    expected = first(masked(inputs))
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
        return "not what masking gives"
    return None


def made(case: Case, told: dict[str, Any]) -> Any:
    """Return the adapter that a case describes; whether it raised is noted in `told`."""
    body: dict[str, Any] = {}
    if case.method:
        body[case.method] = _misbehaving(case, told)
    if case.spec:
        body["axes"] = lambda self, model: _bent(SmallAdapter.axes(self, model), case)
    if case.meddles:
        body["fixup"] = lambda self, model, left: _meddle(model)
    adapter = type("FuzzedAdapter", (SmallAdapter,), body)()
    lacking: dict[str | None, tuple[str, Any]] = {
        "name": ("name", None),
        "name-number": ("name", 3),
        "kinds": ("kinds", ()),
        "kinds-none": ("kinds", None),
        "default_kinds": ("default_kinds", ()),
        "default-unknown": ("default_kinds", ("nothing",)),
    }
    if case.missing:
        setattr(adapter, *lacking[case.missing])
    return adapter


def _misbehaving(case: Case, told: dict[str, Any]) -> Any:
    def method(self: Any, *given: Any) -> Any:
        if case.raises:
            told["raised"] = True
            raise EXCEPTIONS[case.raises]()
        right = getattr(SmallAdapter, case.method or "")(self, *given)
        return {
            "None": None,
            "number": 3,
            "string": "blocks.0",
            "strings": ["blocks.0", "blocks.0.up"],
            "unknown": ["nothing.at.all"],
            "dict": {"blocks.0": 1},
            "class": SmallAdapter,
            "generator": (one for one in right) if isinstance(right, list | tuple) else right,
        }[case.returns or "None"]

    return method


def _bent(specs: list[Any], case: Case) -> list[Any]:
    """Change a field of one of the declared axes."""
    assert case.spec
    name, value = case.spec
    if name == "fold":
        value = _fold(value)
    if name == "ties" and isinstance(value, tuple) and len(value) == 2:
        value = (Tie(*value, Fold((case.shape.width,))),)
    specs[case.which] = replace(specs[case.which], **{name: value})
    return specs


def _fold(value: Any) -> Any:
    if not isinstance(value, tuple) or not isinstance(value[-1], str) or len(value) == 1:
        return Fold(value) if isinstance(value, tuple) else value
    layout, what = value[:-1], value[-1]
    if what == "take 9":
        return Fold(layout, take=(9,))
    return Fold(layout, along=(5,) if what == "along 5" else (0, 0))


@torch.no_grad()
def _meddle(model: nn.Module) -> None:
    weight: Tensor = next(model.parameters())
    weight.add_(1.0)
