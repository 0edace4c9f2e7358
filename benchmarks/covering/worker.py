"""One architecture: what was pruned and proven, or why not."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prunekit import PruneError, load, prune
from prunekit.adapters.finding import adapter_for
from prunekit.cutting import proof
from prunekit.testing import pruned_checks

from .apart import TooLarge
from .names import build

RATIO = 0.3
LARGEST = 1.2e9  # parameters; prune() holds two copies, and saving another
SHORTER = (("depth", 4), ("depths", (1, 1, 2, 1)))  # for models that are larger


def tried(name: str) -> dict[str, Any]:
    """Build a model, prune it, and hold the result to what it promises."""
    shorter, size = fitting(name)
    model, shape = build(name, **shorter)
    found = {"class": type(model).__name__, "params": size, "shorter": bool(shorter)}
    x = torch.randn(1, *shape)
    adapter = adapter_for(model).name
    try:
        with counting_passes() as passes:
            result = prune(model, "magnitude", RATIO, example_input=x, adapter=None)
    except PruneError as error:
        kind = type(error).__name__
        return {**found, "adapter": adapter, "outcome": "refused", "kind": kind, "why": str(error)}
    left_alone = [line for line in result.warnings if line.startswith("Left alone")]
    found |= {
        "adapter": adapter,
        "kinds": dict(Counter(result.kinds.values())),
        "got": round(result.got, 4),
        "parity": result.parity.difference / result.parity.scale,
        "left_alone": len(left_alone),
        "left_why": left_alone[:3],
        "passes": passes[0],
        "prove": round(result.seconds.get("prove", 0.0), 2),
        "forward": round(forward_seconds(model, x), 3),
        "attends": attends(model, x),
    }
    wrong = problem(result, model, x)
    checks = pruned_checks(result.model, model, x, graphs=False)
    broken = [(check.claim, check.problem()) for check in checks]
    found["short_of"] = {claim: why for claim, why in broken if why}
    return {**found, "outcome": "wrong" if wrong else "ok", "why": wrong}


@contextmanager
def counting_passes() -> Iterator[list[int]]:
    """Count the forward passes that the proof of all axes takes, in the only entry of a list."""
    counted, trial, noise = [0], proof._Trial.__call__, proof.lively

    def tried(self: Any, axes: Any) -> Any:
        counted[0] += 2  # the masked and the small model
        return trial(self, axes)

    def made(*args: Any) -> Any:
        counted[0] += 1
        return noise(*args)

    proof._Trial.__call__, proof.lively = tried, made  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        proof._Trial.__call__, proof.lively = trial, noise  # type: ignore[method-assign]


def fitting(name: str) -> tuple[dict[str, Any], int]:
    """Return arguments that make a model small enough, and how many parameters it has without."""
    with torch.device("meta"):
        try:
            whole = build(name)[0]
        except (RuntimeError, TypeError):  # some compute with values while they are built
            whole = build_real(name)
    count = sum(p.numel() for p in whole.parameters())
    if count <= LARGEST:
        return {}, count
    for argument in SHORTER:
        try:
            with torch.device("meta"):
                build(name, **dict([argument]))
        except (TypeError, RuntimeError, AssertionError):  # it has no such argument
            continue
        return dict([argument]), count
    raise TooLarge(f"{count:,} parameters")


def build_real(name: str) -> nn.Module:
    with torch.device("cpu"):
        return build(name)[0]


def forward_seconds(model: nn.Module, x: Tensor) -> float:
    """Return the processor time of a forward pass, the second of two."""
    with torch.inference_mode():
        model.eval()(x)
        began = time.process_time()
        model(x)
        return time.process_time() - began


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether matrices are multiplied batch by batch, as for heads."""

    seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        self.seen |= name.startswith(("bmm", "baddbmm", "_scaled_dot_product"))
        return func(*args, **(kwargs or {}))


def attends(model: nn.Module, x: Tensor) -> bool:
    """Say whether a model multiplies what it computes with what it computes."""
    with torch.no_grad(), _Products() as products:
        model(x)
    return products.seen


def problem(result: Any, model: nn.Module, x: Tensor) -> str | None:
    """Say what a pruned model does not do, if anything: load bit for bit, train."""
    small = result.model
    with tempfile.TemporaryDirectory() as place:
        result.save(Path(place) / "saved")
        loaded = load(Path(place) / "saved", model=model, example_input=x)
    with torch.inference_mode():
        pairs = zip(tree_leaves(small.eval()(x)), tree_leaves(loaded(x)), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            return "computes something else when it is loaded"
    del loaded
    twice = x.repeat(2, 1, 1, 1)
    outputs = tree_leaves(small.train()(twice))
    loss = sum(out.float().square().mean() for out in outputs if out.is_floating_point())
    loss.backward()  # type: ignore[union-attr]
    missing = [
        name
        for name, p in small.named_parameters()
        if p.requires_grad and p.grad is not None and not p.grad.isfinite().all()
    ]
    return f"has gradients that are not finite: {missing[0]}" if missing else None
