"""A pruning that is right keeps what it promises, and is loaded as it was saved."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunekit import PruneError, load, prune

from ..models import SmallAdapter, first, small, toy
from ..outcome import OK, Outcome, broken, traceback
from ..sandbox import in_child
from ..scene import Scene
from ..strategies.plugins import DTYPES
from ..strategies.prunings import Pruning

DTYPE = {**DTYPES, "float16": torch.float16}
CLOSE = 0.005  # what a budget may be missed by without a warning
BUDGET = (
    "BudgetError",
    "NothingToRemove",
    "OutOfReach",
)  # the refusals that a right pruning may meet


def examine(scene: Scene, case: Pruning) -> Outcome:
    """Prune, look at what came of it, save it and load it."""
    with scene.sandbox() as cwd:
        ran = in_child(lambda: _work(scene, case, cwd), cwd)
    wrong = broken(ran) or traceback(ran)
    if wrong:
        return wrong
    told = ran.value
    if told["error"] is not None:
        if told["type"] in BUDGET and not told["in one"]:
            return Outcome("refused", "", told["error"])
        why = "in steps, but not in one" if told["type"] in BUDGET else told["type"]
        return Outcome("silent wrong", f"a right pruning is refused: {why}", told["error"])
    return Outcome("silent wrong", told["wrong"], str(told["detail"])) if told["wrong"] else OK


def _work(scene: Scene, case: Pruning, cwd: Path) -> dict[str, Any]:
    model, given, example = _model(scene, case)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        result = prune(model, case.criterion, **case.options(), **given)
    except PruneError as error:
        told = {"error": str(error), "type": type(error).__name__}
        return {**told, "in one": case.steps > 1 and _works(replace(case, steps=1), model, given)}
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name]):
            return _found("the caller's model has changed", name)
    found = _kept(case, model, result, example)
    if found is None:
        result.save(cwd / "saved")
        known = {name: value for name, value in given.items() if name.startswith(("adap", "exam"))}
        loaded = load(cwd / "saved", model=_model(scene, case)[0], **known)
        with torch.inference_mode():
            same = torch.equal(first(loaded(example)), first(result.model(example)))
        found = None if same else ("what is loaded computes something else", "")
    return _found(*(found or (None, "")))


def _works(case: Pruning, model: nn.Module, given: dict[str, Any]) -> bool:
    try:
        prune(model, case.criterion, **case.options(), **given)
    except PruneError:
        return False
    return True


def _found(wrong: str | None, detail: Any) -> dict[str, Any]:
    return {"error": None, "wrong": wrong, "detail": detail}


def _model(scene: Scene, case: Pruning) -> tuple[nn.Module, dict[str, Any], Tensor]:
    """Return a model, what `prune` must be told of it, and other inputs than it is verified on."""
    dtype = DTYPE[case.dtype]
    if case.family == "small":
        model, inputs = small(case.shape)
        inputs = inputs.to(dtype)
        given = {"adapter": SmallAdapter(), "example_input": inputs}
        return model.to(dtype), given, torch.flip(inputs, [0]) * 1.5
    model = toy(case.family, dtype)
    size = model.pretrained_cfg["input_size"]
    example = torch.randn(2, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return model, {"data": str(scene.images), "calibration": 8}, example


@torch.no_grad()
def _kept(case: Pruning, model: nn.Module, result: Any, example: Tensor) -> tuple[str, Any] | None:
    """Return the promise that is not kept, if there is one."""
    output, dense = first(result.model(example)), first(model(example))
    if output.shape != dense.shape or output.dtype != dense.dtype:
        return "another shape or dtype of output", (output.shape, output.dtype)
    if not bool(output.isfinite().all()):
        return "an output that is not finite", ""
    if case.granularity == "slice" and not result.parity.holds:
        return "parity does not hold", result.parity
    if abs(result.got - case.ratio) > CLOSE and not result.warnings:
        return "the budget is missed in silence", (result.got, case.ratio)
    if case.granularity == "weight":
        return None
    params = [sum(p.numel() for p in one.parameters()) for one in (model, result.model)]
    if [result.before.params, result.after.params] != params:
        return "parameters are miscounted", (params, result.before.params, result.after.params)
    if case.by == "params" and not math.isclose(
        result.got, 1 - params[1] / params[0], abs_tol=1e-6
    ):
        return "the plan got something else", (result.got, params)
    for name, kept in result.plan.kept.items():
        if len(kept) < math.floor(case.floor * result.plan.sizes[name]) or not kept:
            return "less is kept than the floor", (name, len(kept), result.plan.sizes[name])
    return None
