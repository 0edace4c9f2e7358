"""A plug-in that misbehaves is named, and neither the caller's model nor a file suffers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from prunekit import PruneError, criterion, prune, repair

from ..models import toy
from ..outcome import OK, Outcome, broken, exit_code, judged, traceback
from ..sandbox import in_child
from ..scene import Scene, call
from ..strategies.plugins import DTYPES, EXCEPTIONS, NAME, Criterion, Repair


def examine(scene: Scene, case: Criterion | Repair) -> Outcome:
    """Make the plug-in, prune with it, and save what came of it."""
    with scene.sandbox() as cwd:
        return _by_name(scene, case, cwd) if case.by_name else _in_python(scene, case, cwd)


def _by_name(scene: Scene, case: Criterion | Repair, cwd: Path) -> Outcome:
    """Use a registered plug-in as `prunekit run` would."""
    line = ["run", "--arch", "vit_micro", "--data", str(scene.images), "--calibration", "8"]
    line += ["--axes", "mlp,head_dim", "--out", "out", *scene.untimed]
    if isinstance(case, Criterion):
        line += ["--criterion", NAME]
    else:
        line += ["--repair", NAME, "--criterion", "magnitude", "--scope", "axis"]

    def work() -> int | str:
        try:
            make(case)
        except PruneError as error:
            return str(error)  # a declaration that cannot be right is refused at once
        return call(line)

    ran = in_child(work, cwd)
    if isinstance(ran.value, str):
        return _named(ran.value)
    outcome = judged(ran)
    if not outcome.fine:
        return outcome
    if exit_code(ran) == 2:
        return Outcome("leftovers", "run") if (cwd / "out").exists() else _named(ran.err)
    if case.wrong:
        return _wrongly_taken(case, f"exit {exit_code(ran)}")
    return _finite(load_file(cwd / "out" / "model.safetensors"))


def _in_python(scene: Scene, case: Criterion | Repair, cwd: Path) -> Outcome:
    """Use a plug-in on a model of the caller's own."""
    dtype = DTYPES[case.dtype] if isinstance(case, Repair) else torch.float32

    def work() -> dict[str, Any]:
        model = toy("vit", dtype)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        error = None
        try:
            _prune(scene, case, model).save("out")
        except PruneError as refusal:
            error = str(refusal)
        changed = [n for n, tensor in model.state_dict().items() if not _same(tensor, before[n])]
        return {"error": error, "changed": changed}

    ran = in_child(work, cwd)
    wrong = broken(ran)
    if wrong:
        return wrong
    if ran.raised is not None:
        return traceback(ran) or Outcome("traceback", "SystemExit goes through", str(ran.raised))
    if ran.value["changed"]:
        return Outcome("changed model", f"by what writes to {case.writes}", repr(case))
    if ran.value["error"] is not None:
        return _named(ran.value["error"])
    if case.wrong:
        return _wrongly_taken(case, "prune returns a model")
    return _finite(load_file(cwd / "out" / "model.safetensors"))


def _prune(scene: Scene, case: Criterion | Repair, model: torch.nn.Module) -> Any:
    made = make(case)
    chosen = {"criterion": made} if isinstance(case, Criterion) else {"repair": made}
    options: dict[str, Any] = {"data": str(scene.images), "calibration": 8, "multiple": 1}
    options |= {"axes": ("mlp", "head_dim"), "ratio": 0.3}
    options |= {"scope": "axis"} if isinstance(case, Repair) else {}
    return prune(model, **{"criterion": "magnitude", **chosen}, **options)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _named(message: str) -> Outcome:
    if NAME in message:
        return Outcome("refused", "", message)
    return Outcome("unnamed", " ".join(message.split()[:7]), message)


def _wrongly_taken(case: Criterion | Repair, how: str) -> Outcome:
    faults = ("raises", "returns", "writes", "signature", "needs", "scope", "product")
    default = type(case)()
    why = [f"{f} {v!r}" for f in faults
           if (v := getattr(case, f, None)) != getattr(default, f, None)]  # fmt: skip
    return Outcome("silent wrong", f"{type(case).__name__} that {' and '.join(why)}", how)


def _finite(state: dict[str, Tensor]) -> Outcome:
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    return Outcome("silent wrong", "a saved model that is not finite", str(bad[:3])) if bad else OK


def make(case: Criterion | Repair) -> Any:
    """Register the plug-in that a case describes."""
    if isinstance(case, Criterion):
        function = _bent(case.signature, lambda axes: _score(case, axes))
        return criterion(NAME, needs=case.needs, scope=case.scope)(function)
    product = (lambda found: _product(case, found)) if case.product else None
    function = _bent(case.signature, lambda layer: _mend(case, layer))
    return repair(NAME, needs=case.needs, product=product)(function)


def _bent(signature: str | None, function: Callable[[Any], Any]) -> Any:
    """Give a function other parameters."""
    bent: dict[str | None, Any] = {
        None: function,
        "none": lambda: [],
        "two": lambda given, more: function(given),
        "keyword": lambda *, given: function(given),
        "number": 3,
        "class": Criterion,
        "option": lambda given, *, needed: function(given),
        "varargs": lambda *given, **options: function(given[0]),
    }
    return bent[signature]


def _score(case: Criterion, axes: Any) -> Any:
    if case.raises:
        raise EXCEPTIONS[case.raises]()
    right = [axis.reduce(lambda member: member.weight.abs()) for axis in axes]
    if case.writes:
        for axis in axes:
            for member in axis.members:
                _write(case.writes, member)
    if case.returns:
        return _instead(case.returns, axes, right)
    return {
        None: right,
        "integers": [score.argsort().argsort() for score in right],
        "half": [score.half() for score in right],
        "generator": (score for score in right),
        "tuple": tuple(right),
        "requires-grad": [score.clone().requires_grad_() for score in right],
        "constant": [torch.zeros_like(score) for score in right],
        "huge": [score * 1e300 for score in right],
        "inverse": [-score for score in right],
    }[case.odd]


def _write(where: str, member: Any) -> None:
    """Write in place to what belongs to the caller."""
    if where == "resize":
        member.weight.resize_(1)
    elif where == "data":
        member.weight.data.mul_(0.5)
    elif where == "index":
        member.index.add_(1).clamp_(max=int(member.index.max()) - 1)
    elif where in ("inputs", "outputs"):
        moments = getattr(member, where)
        (member.weight if moments is None else moments.mean).mul_(0.5)
    else:
        tensor = getattr(member, where)
        (member.weight if tensor is None else tensor).mul_(0.5)


def _instead(what: str, axes: Any, right: list[Tensor]) -> Any:
    """Return something other than one finite score per slice."""
    first, rest = right[0], right[1:]
    return {
        "None": None,
        "number": 3.0,
        "string": "scores",
        "no-list": torch.cat(right),
        "too-few": rest,
        "too-many": [*right, first],
        "short": [first[1:], *rest],
        "long": [torch.cat([first, first]), *rest],
        "matrix": [first[:, None], *rest],
        "nan": [first * torch.nan, *rest],
        "inf": [first / 0, *rest],
        "complex": [first.to(torch.complex64), *rest],
        "tensor-of-none": [None, *rest],
        "strings": ["a" * axis.size for axis in axes],
        "meta": [score.to("meta") for score in right],
        "dict": {axis.name: score for axis, score in zip(axes, right, strict=True)},
    }[what]


def _mend(case: Repair, layer: Any) -> Any:
    if case.raises:
        raise EXCEPTIONS[case.raises]()
    weight, bias = layer.weight, layer.bias
    if case.writes == "resize":
        layer.covariance.resize_(1)
    elif case.writes and getattr(layer, case.writes) is not None:
        getattr(layer, case.writes).mul_(0.5)
    return _instead_of_affine(case.returns, weight, bias) if case.returns else (weight, bias)


def _instead_of_affine(what: str, weight: Tensor, bias: Tensor | None) -> Any:
    """Return something other than a weight and a bias of the layer's own shapes."""
    small = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
    return {
        "None": None,
        "number": 3,
        "weight-only": weight,
        "three": (weight, bias, bias),
        "swapped": (bias, weight),
        "transposed": (weight.T if len(set(weight.shape)) > 1 else weight[1:], bias),
        "no-bias": (weight, small[1:] if bias is None else None),
        "nan": (weight * torch.nan, bias),
        "inf": (weight / 0, bias),
        "huge": (weight.sign() * 1e300, bias),
        "huge-bias": (weight * 1e300, bias if bias is None else bias + 1e300),
        "strings": ("weight", "bias"),
        "complex": (weight.to(torch.complex128), bias),
        "integers": (weight.tolist(), bias if bias is None else bias.tolist()),
        "meta": (weight.to("meta"), bias),
        "flat": (weight.flatten(), bias),
    }[what]


def _product(case: Repair, found: Any) -> Any:
    rank, dim = len(found.kept), len(found.keys)
    picks = torch.eye(dim, dtype=found.keys.dtype)[found.kept]
    if case.product == "raises":
        raise ZeroDivisionError("odd")
    if case.product == "write":
        found.keys.mul_(0.5)
        found.queries.fill_(torch.nan)
        return picks * torch.nan, picks
    return {
        "right": (picks, picks),
        "None": None,
        "nan": (picks * torch.nan, picks),
        "huge": (picks * 1e300, picks * 1e-300),
        "shapes": (picks.T, torch.zeros(rank + 1, dim)),
        "one": picks[:1, :1],
    }[case.product]
