"""What a run does with an adapter besides cutting: count, look, repair, save and load."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..adapters.answers import axes_of, blocks_of
from ..artifact import load
from ..cutting.shrink import shrunk
from ..engine import prune
from ..errors import AdapterError
from ..inputs.subject import Subject
from ..measuring.counting import mac_terms, stats
from ..measuring.memory import peak_memory
from ..recovery.reconstruct import repair_
from ..repairs import REPAIRS
from ..result import Result
from ..statistics import gather
from ..tracing.outputs import logits_of
from .check import Claim
from .models import images_for, outputs, pruned, random_plan, same, traced

RATIO = 0.3


def _counts(subject: Subject) -> None:
    axes = traced(subject)
    small = pruned(subject, random_plan(axes, subject.model, RATIO))
    before, after = (stats(model, subject.example) for model in (subject.model, small))
    assert after.macs < before.macs, f"MACs went from {before.macs:,} to {after.macs:,}"
    counted = sum(term.cost for term in mac_terms(subject.model, axes, subject.example))
    assert counted == before.macs, f"{counted:,.0f} of {before.macs:,} MACs belong to a module"
    assert peak_memory(small, subject.example) > 0, "a forward pass needs no memory"


def _shows_activations(subject: Subject) -> None:
    gather("activations", subject.model, traced(subject), images_for(subject.example))


def _shows_gradients(subject: Subject) -> None:
    try:
        with torch.inference_mode():
            logits_of(subject.model(subject.example))
    except AdapterError:  # there is no loss to take gradients of, which no adapter can help
        return
    axes, images = traced(subject), images_for(subject.example)
    for need in ("gradients", "squared_gradients"):
        for axis in gather(need, subject.model, axes, images):
            for member in axis.voters:
                found = member.grad if need == "gradients" else member.grad_square
                assert found is not None, f"{member.name} got no gradient"
                assert found.isfinite().all(), f"the gradient of {member.name} is not finite"


def _is_repaired(subject: Subject) -> None:
    axes, images = traced(subject), images_for(subject.example)
    plan = random_plan(axes, subject.model, RATIO)
    small = shrunk(subject.model, axes, plan, subject.adapter).eval()
    blocks = blocks_of(subject.adapter, subject.model)
    done = repair_(small, subject.model, axes, plan, REPAIRS.get("lstsq"), blocks, images)
    assert done.layers, "no layer that lost inputs was found"


def _is_saved(subject: Subject) -> None:
    _survives(subject, multiple=1, floor=0.0, axes=_kinds(subject))


def _is_masked(subject: Subject) -> None:
    _survives(subject, granularity="weight")


def _survives(subject: Subject, **options: Any) -> None:
    """Run `prune`, save what comes of it, and load that."""
    own: dict[str, Any] = {"adapter": subject.adapter, "example_input": subject.example}
    result: Result = prune(subject.model, "magnitude", RATIO, by="slices", **own, **options)
    with tempfile.TemporaryDirectory() as place:
        result.save(Path(place) / "saved")
        loaded = load(Path(place) / "saved", model=subject.model, **own)
    with torch.inference_mode():
        expected, found = (outputs(net, subject.example) for net in (result.model, loaded))
    assert same(found, expected), "the saved model computes something else when it is loaded"


def _kinds(subject: Subject) -> Sequence[str]:
    """Return the default kinds, of which this model need not have all."""
    present = {spec.kind for spec in axes_of(subject.adapter, subject.model)}
    return [kind for kind in subject.adapter.default_kinds if kind in present] or sorted(present)


RUN_CLAIMS: tuple[Claim[Subject], ...] = (
    ("has MACs and memory that can be counted", _counts),
    ("shows criteria its activations", _shows_activations),
    ("shows criteria its gradients", _shows_gradients),
    ("can be repaired", _is_repaired),
    ("is saved and loaded by a whole run", _is_saved),
    ("is saved and loaded by a whole run on single weights", _is_masked),
)
