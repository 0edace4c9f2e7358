"""What an adapter promises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..adapters import ADAPTERS
from ..adapters.base import Adapter, select
from ..axis import Axis
from ..criteria import CRITERIA
from ..cutting.shrink import shrink_, shrunk
from ..cutting.silence import mask_
from ..inputs.checkpoints import fill
from ..measuring.counting import mac_terms, param_terms, stats
from ..planning.budget import Budget
from ..planning.plan import Plan, make_plan
from ..statistics.walk import Walk
from ..tracing.copies import copy_with
from ..tracing.graph import trace
from .check import Check

RATIOS = (0.3, 0.6)
TOLERANCE = 1e-4  # of the output's scale


def adapter_checks(
    adapter: str | Adapter, model: nn.Module | None = None, example: Tensor | None = None
) -> list[Check]:
    """Return everything that an adapter promises, as checks on a small model.

    Args:
        adapter: A registered name, or an adapter.
        model: The model; the adapter's own `toy()` unless given. It is not modified.
        example: A batch of inputs that goes with `model`.

    Raises:
        RegistryError: Nothing has that name.
        AdapterError: There is no model, as the adapter has no `toy()`.
    """
    found = ADAPTERS.get(adapter) if isinstance(adapter, str) else adapter
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        toy, batch = (model, example) if model is not None and example is not None else found.toy()
    subject = _Subject(found, _randomised(toy), batch)
    claims = [
        ("declares axes with names of their own and known kinds", _declares_well),
        ("names blocks that run one after the other", _chains),
        ("changes nothing, bit for bit, when everything is kept", _keeps_everything),
        *((f"removing equals masking: {kind}", _parity(kind)) for kind in found.kinds),
        ("removing equals masking: all kinds together", _parity(None)),
        ("removing equals masking when done twice", _twice),
        ("is counted, MAC by MAC, before and after", _counts),
        ("leaves a model that trains", _trains),
        ("leaves a model that exports", _exports),
        ("has plans that survive JSON and rebuild the model", _rebuilds),
    ]
    return [Check(claim, lambda check=check: check(subject)) for claim, check in claims]  # type: ignore[misc]


@dataclass(frozen=True)
class _Subject:
    adapter: Adapter
    model: nn.Module
    example: Tensor

    def axes(self, kind: str | None = None) -> list[Axis]:
        specs = self.adapter.axes(self.model)
        if kind is not None:
            specs = select(specs, [kind], self.adapter)
        return trace(self.model, specs, self.adapter, self.example)

    def pruned(self, plan: Plan) -> nn.Module:
        return shrunk(self.model, self.axes(), plan, self.adapter).eval()


def _randomised(model: nn.Module) -> nn.Module:
    """Give every parameter values that matter: a head or a scale of zeros proves nothing."""
    generator = torch.Generator().manual_seed(0)

    def fresh(_: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        noise = torch.randn(tensor.shape, generator=generator)
        fan_in = max(1, tensor[0].numel()) if tensor.dim() > 1 else 1
        return noise / fan_in**0.5 if tensor.dim() > 1 else 0.5 + noise / 4

    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return copy_with(model, lambda n, t: buffers[n] if n in buffers else fresh(n, t)).eval()


def _plan(axes: Sequence[Axis], model: nn.Module, ratio: float) -> Plan:
    """Return a plan that removes random slices, as far as the ratio can be reached."""
    scores = CRITERIA.get("random")(axes)
    terms = param_terms(model)
    total = sum(term.cost for term in terms)
    own = {(member.name, member.dim) for axis in axes for member in axis.members}
    reach = sum(term.cost for term in terms if own & set(term.dims)) / total
    budget = Budget(ratio * reach, "params", total, terms)
    return make_plan(axes, scores, budget, scope="axis", multiple=1, floor=0.05)


def _everything(axes: Sequence[Axis]) -> Plan:
    kept = {axis.name: tuple(range(axis.size)) for axis in axes}
    return Plan(kept, {axis.name: axis.size for axis in axes}, "slices", 0.0, 0.0)


def _run(model: nn.Module, subject: _Subject) -> Tensor:
    """Return all that a model computes in one row, whether it returns a tensor or several."""
    return torch.cat([leaf.flatten() for leaf in tree_leaves(model(subject.example))])


def _declares_well(subject: _Subject) -> None:
    specs = subject.adapter.axes(subject.model)
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names), "two axes have the same name"
    unknown = {spec.kind for spec in specs} - set(subject.adapter.kinds)
    assert not unknown, f"axes of kinds {sorted(unknown)} are missing from adapter.kinds"
    assert set(subject.adapter.default_kinds) <= set(subject.adapter.kinds), "unknown default kind"
    assert subject.adapter.matches(subject.model), (
        "matches() is false for the model it is tested with"
    )


@torch.inference_mode()
def _chains(subject: _Subject) -> None:
    blocks = subject.adapter.blocks(subject.model)
    walk = Walk(subject.model, subject.model, [(subject.example, subject.example)])
    walk.sections(blocks, blocks)  # raises an AdapterError that says which one does not


@torch.inference_mode()
def _keeps_everything(subject: _Subject) -> None:
    small = subject.pruned(_everything(subject.axes()))
    assert torch.equal(_run(subject.model, subject), _run(small, subject)), "the output changed"


def _parity(kind: str | None) -> Callable[[_Subject], None]:
    def check(subject: _Subject) -> None:
        axes = subject.axes(kind)
        for ratio in RATIOS:
            _assert_parity(subject, axes, _plan(axes, subject.model, ratio))

    return check


@torch.inference_mode()
def _assert_parity(subject: _Subject, axes: Sequence[Axis], plan: Plan) -> nn.Module:
    masked = copy_with(subject.model, lambda _, tensor: tensor.clone())
    mask_(masked, axes, plan)
    small = shrunk(subject.model, axes, plan, subject.adapter).eval()
    dense, silenced, cut = (_run(net, subject) for net in (subject.model, masked, small))
    scale = float(silenced.abs().max())
    assert not torch.allclose(dense, silenced, atol=1e-3 * scale), "masking changed nothing"
    difference = float((silenced - cut).abs().max())
    assert difference <= TOLERANCE * scale, (
        f"removing differs from masking by {difference:.1e} of {scale:.1e}"
    )
    sizes = [sum(p.numel() for p in net.parameters()) for net in (subject.model, small)]
    assert sizes[1] < sizes[0], "the model did not become smaller"
    return small


def _twice(subject: _Subject) -> None:
    axes = subject.axes()
    small = _assert_parity(subject, axes, _plan(axes, subject.model, RATIOS[0]))
    again = replace(subject, model=small)
    axes = again.axes()
    _assert_parity(again, axes, _plan(axes, small, RATIOS[0]))


def _counts(subject: _Subject) -> None:
    axes = subject.axes()
    small = subject.pruned(_plan(axes, subject.model, RATIOS[1]))
    before, after = (stats(model, subject.example) for model in (subject.model, small))
    assert after.macs < before.macs, f"MACs went from {before.macs:,} to {after.macs:,}"
    counted = sum(term.cost for term in mac_terms(subject.model, axes, subject.example))
    assert counted == before.macs, f"{counted:,.0f} of {before.macs:,} MACs belong to a module"


def _trains(subject: _Subject) -> None:
    small = subject.pruned(_plan(subject.axes(), subject.model, RATIOS[1])).train()
    _run(small, subject).square().mean().backward()  # type: ignore[no-untyped-call]
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def _exports(subject: _Subject) -> None:
    small = subject.pruned(_plan(subject.axes(), subject.model, RATIOS[1]))
    exported = torch.export.export(small, (subject.example,)).module()
    with torch.inference_mode():
        expected, found = _run(small, subject), _run(exported, subject)
    assert torch.allclose(expected, found, atol=1e-5 * float(expected.abs().max())), (
        "the exported model computes something else"
    )


def _rebuilds(subject: _Subject) -> None:
    plan = _plan(subject.axes(), subject.model, RATIOS[1])
    small = subject.pruned(plan)
    rebuilt = copy_with(subject.model, lambda _, tensor: torch.zeros_like(tensor))
    shrink_(rebuilt, subject.axes(), Plan.from_json(plan.to_json()), subject.adapter)
    buffers = dict(small.named_buffers())
    fill(rebuilt, small.state_dict(), "the pruned model")
    for name, buffer in rebuilt.named_buffers():
        buffer.copy_(buffers[name])
    with torch.inference_mode():
        same = torch.equal(_run(small, subject), _run(rebuilt.eval(), subject))
    assert same, "the rebuilt model computes something else"
