"""What an adapter promises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..adapters import ADAPTERS
from ..adapters.answers import axes_of, blocks_of, matches
from ..adapters.base import Adapter, check_declared
from ..arguments import Inputs, arguments
from ..axis import Axis
from ..cutting.parity import silence, verify
from ..cutting.shrink import shrink_, shrunk
from ..inputs.checkpoints import fill
from ..inputs.subject import Subject
from ..planning.plan import Plan
from ..statistics.walk import Walk
from ..tracing.copies import copy_with
from .check import Check, Claim, checks
from .models import images_for, outputs, pruned, random_plan, same, subject_of, traced
from .runs import RUN_CLAIMS

RATIOS = (0.3, 0.6)


def adapter_checks(
    adapter: str | Adapter, model: nn.Module | None = None, example: Inputs | None = None
) -> list[Check]:
    """Return everything that an adapter promises, as checks on a small model.

    Args:
        adapter: A registered name, or an adapter.
        model: The model; the adapter's own `toy()` unless given. It is not modified.
        example: A batch of inputs that goes with `model`.

    Raises:
        RegistryError: Nothing has that name.
        AdapterError: There is no model, as the adapter has no `toy()`, or it does not declare
            what an adapter must.
    """
    found = ADAPTERS.get(adapter) if isinstance(adapter, str) else adapter
    check_declared(found)
    claims: list[Claim[Subject]] = [
        ("declares axes with names of their own and known kinds", _declares_well),
        ("names blocks that run one after the other", _chains),
        ("changes nothing, bit for bit, when everything is kept", _keeps_everything),
        *((f"removing equals masking: {kind}", partial(_parity, kind)) for kind in found.kinds),
        ("removing equals masking: all kinds together", partial(_parity, None)),
        ("removing equals masking when done twice", _twice),
        ("leaves a model that trains", _trains),
        ("leaves a model that exports", _exports),
        ("has plans that survive JSON and rebuild the model", _rebuilds),
        *RUN_CLAIMS,
    ]
    return checks(claims, subject_of(found, model, example))


def _declares_well(subject: Subject) -> None:
    axes_of(subject.adapter, subject.model)  # raises an AdapterError that says what is wrong
    assert matches(subject.adapter, subject.model), (
        "matches() is false for the model it is tested with"
    )


@torch.inference_mode()
def _chains(subject: Subject) -> None:
    blocks = blocks_of(subject.adapter, subject.model)
    walk = Walk(subject.model, subject.model, images_for(subject.example))
    walk.sections(blocks, blocks)  # raises an AdapterError that says which one does not


@torch.inference_mode()
def _keeps_everything(subject: Subject) -> None:
    sizes = {axis.name: axis.size for axis in traced(subject)}
    kept = {name: tuple(range(size)) for name, size in sizes.items()}
    small = pruned(subject, Plan(kept, sizes, "slices", 0.0, 0.0))
    x = subject.example
    assert same(outputs(small, x), outputs(subject.model, x)), "the output changed"


def _parity(kind: str | None, subject: Subject) -> None:
    axes = traced(subject, kind)
    for ratio in RATIOS:
        _pruned_alike(subject, axes, random_plan(axes, subject.model, ratio))


def _pruned_alike(subject: Subject, axes: Sequence[Axis], plan: Plan) -> nn.Module:
    """Prune as a run does, which raises a ParityError if removing does not equal masking."""
    reference = silence(subject, axes, plan)
    small = shrunk(subject.model, axes, plan, subject.adapter).eval()
    verify(reference, small)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (subject.model, small)]
    assert sizes[1] < sizes[0], "the model did not become smaller"
    return small


def _twice(subject: Subject) -> None:
    axes = traced(subject)
    small = _pruned_alike(subject, axes, random_plan(axes, subject.model, RATIOS[0]))
    again = subject.onward(small)
    axes = traced(again)
    _pruned_alike(again, axes, random_plan(axes, small, RATIOS[0]))


def _cut(subject: Subject) -> tuple[Plan, nn.Module]:
    plan = random_plan(traced(subject), subject.model, RATIOS[1])
    return plan, pruned(subject, plan)


def _trains(subject: Subject) -> None:
    _, small = _cut(subject)
    found = outputs(small.train(), subject.example)
    loss: Any = sum(output.square().mean() for output in found)
    loss.backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def _exports(subject: Subject) -> None:
    _, small = _cut(subject)
    exported = torch.export.export(small, *arguments(subject.example)[:2]).module()
    with torch.inference_mode():
        expected, found = (outputs(net, subject.example) for net in (small, exported))
    assert same(found, expected, 1e-5), "the exported model computes something else"


def _rebuilds(subject: Subject) -> None:
    plan, small = _cut(subject)
    rebuilt = copy_with(subject.model, lambda _, tensor: torch.zeros_like(tensor))
    shrink_(rebuilt, traced(subject), Plan.from_json(plan.to_json()), subject.adapter)
    buffers = dict(small.named_buffers())
    fill(rebuilt, small.state_dict(), "the pruned model")
    for name, buffer in rebuilt.named_buffers():
        buffer.copy_(buffers[name])
    with torch.inference_mode():
        expected, found = (outputs(net, subject.example) for net in (small, rebuilt.eval()))
    assert same(found, expected), "the rebuilt model computes something else"
