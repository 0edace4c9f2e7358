"""Small models to put plug-ins to the test with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..adapters import ADAPTERS
from ..adapters.answers import axes_of, seeing, toy_of
from ..adapters.base import Adapter, select
from ..arguments import Inputs, call
from ..auto.words import ASKED
from ..axis import Axis
from ..criteria import CRITERIA
from ..criteria.base import Need
from ..cutting.proof import proven
from ..cutting.shrink import shrunk
from ..inputs.computed import without_computed
from ..inputs.subject import Subject
from ..measuring.counting import param_terms
from ..planning.budget import Budget
from ..planning.plan import Plan, make_plan
from ..statistics import gather
from ..tracing.copies import copy_with
from ..tracing.graph import trace

FAMILIES = ("vit", "swin", "convnext")


def subject_of(
    adapter: Adapter, model: nn.Module | None = None, example: Inputs | None = None
) -> Subject:
    """Return a copy of a model, with weights of which every one matters, and inputs for it.

    Args:
        adapter: What knows the model.
        model: The model; the adapter's own `toy()` unless given with an example.
        example: A batch of inputs.
    """
    if model is None or example is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, example = toy_of(adapter)
    model = _randomised(model)
    found = without_computed(model, lambda at: (seeing(adapter, at, example), ()), example)
    subject = Subject(
        found.model, found.adapter, example, None, None, "random", (), plain=found.names
    )
    return proven(subject, ASKED)


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


def traced(subject: Subject, kind: str | None = None) -> list[Axis]:
    """Return all axes, or those of a kind."""
    specs = axes_of(subject.adapter, subject.model)
    if kind is not None:
        specs = select(specs, [kind], subject.adapter)
    return trace(subject.model, specs, subject.adapter, subject.example)


def random_plan(axes: Sequence[Axis], model: nn.Module, ratio: float) -> Plan:
    """Return a plan that removes random slices, as far as the ratio can be reached."""
    scores = CRITERIA.get("random")(axes)
    terms = param_terms(model)
    total = sum(term.cost for term in terms)
    own = {(member.name, member.dim) for axis in axes for member in axis.members}
    reach = sum(term.cost for term in terms if own & set(term.dims)) / total
    budget = Budget(ratio * reach, "params", total, terms)
    return make_plan(axes, scores, budget, scope="axis", multiple=1, floor=0.05)


def pruned(subject: Subject, plan: Plan) -> nn.Module:
    """Return what a plan of all axes leaves."""
    return shrunk(subject.model, traced(subject), plan, subject.adapter).eval()


def outputs(model: nn.Module, example: Inputs) -> list[Tensor]:
    """Run a model, and return all floating-point tensors that come out."""
    leaves = tree_leaves(call(model, example))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def same(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 0.0) -> bool:
    """Whether outputs agree, within a fraction of the scale of each; bit for bit if that is 0."""
    return len(found) == len(expected) and all(
        one.shape == other.shape
        and bool(((one - other).abs() <= tolerance * other.abs().max()).all())
        for one, other in zip(found, expected, strict=True)
    )


def images_for(example: Inputs, count: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Return some batches of random inputs like an example, and labels of the first two classes."""
    assert isinstance(example, Tensor), "only a model of one input is fed images"
    if not example.is_floating_point():
        return [(example, torch.arange(len(example)) % 2)]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(count, *example.shape[1:], generator=generator).to(example)
    return list(zip(torch.split(drawn, 4), torch.split(torch.arange(count) % 2, 4), strict=True))


def real_axes(need: Need) -> dict[str, list[Axis]]:
    """Return the axes of a model of each family, with what a criterion needs and nothing else."""
    found = {}
    for name in FAMILIES:
        subject = subject_of(ADAPTERS.get(name))
        axes, images = traced(subject), images_for(subject.example)
        found[name] = gather(need, subject.model, axes, images)
    return found
