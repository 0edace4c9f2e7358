"""What a pruned model promises: all that the large one does, and timm's tests ask of it.

The claims are those of timm's tests of its own models (tests/test_models.py there), in our words.
What the large model does not do, the small one need not do either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Inputs, arguments, batch_of
from ..tracing.copies import copy_with
from ..tracing.plain_layers import made_plain, plain_layers
from .check import Check, Claim, checks
from .models import outputs, same

CLASSES = 3  # of another classifier
ROUNDING = 1e-4  # of an output's scale, between two ways to compute it

Act = Callable[[nn.Module, Inputs], object]  # raises if the model cannot; returns what is compared


@dataclass(frozen=True)
class Pair:
    """A pruned model and what it was cut out of, and a batch of two inputs."""

    small: nn.Module
    large: nn.Module
    example: Inputs


def pruned_checks(
    small: nn.Module, large: nn.Module, example: Inputs, *, graphs: bool = True
) -> list[Check]:
    """Return what a pruned model must still do, as checks.

    Args:
        small: The pruned model; not modified.
        large: What it was cut out of; not modified. Layers that compute their weight are compared
            as the plain ones that the small model has.
        example: One batch of inputs.
        graphs: Whether to trace with torch.fx and to export too, which takes seconds.
    """
    acts: list[tuple[str, Act]] = [
        ("returns as many finite numbers", _runs),
        ("trains the same parameters", _trains),
        ("takes another classifier", _takes_another_classifier),
        ("takes no classifier, and knows how many features are left", _takes_no_classifier),
        ("computes its output from its features", _has_features),
        ("names its stem and its classifier", _names_its_ends),
        ("returns features of each stage, as wide as it says", _has_stages),
    ]
    if graphs:
        acts += [("is traced by torch.fx", _is_traced), ("is exported", _is_exported)]
    claims: list[Claim[Pair]] = [(claim, _as_the_large_one(act)) for claim, act in acts]
    return checks(claims, Pair(small, _as_plain(large, small), batch_of(example, 2)))


def _as_plain(large: nn.Module, small: nn.Module) -> nn.Module:
    """Return the large model with those layers plain that are so in the small one."""
    own = {name: type(module) for name, module in small.named_modules()}
    kinds = {name: type(module) for name, module in large.named_modules()}
    other = [name for name, kind in kinds.items() if own.get(name, kind) is not kind]
    large = copy_with(large, lambda _, tensor: tensor).eval()
    return made_plain(large, plain_layers(large, other))


def _as_the_large_one(act: Act) -> Callable[[Pair], None]:
    def claim(pair: Pair) -> None:
        try:
            wanted = act(_copied(pair.large), pair.example)
        except Exception:  # then it is not asked of the small one
            return
        found = act(_copied(pair.small), pair.example)
        assert found == wanted, f"it has {found}, where the large model has {wanted}"

    return claim


def _copied(model: nn.Module) -> nn.Module:
    return copy_with(model, lambda _, tensor: tensor.clone()).eval()


@torch.no_grad()
def _run(model: nn.Module, example: Inputs) -> list[Tensor]:
    return outputs(model, example)


def _runs(model: nn.Module, example: Inputs) -> object:
    found = _run(model, example)
    assert all(output.isfinite().all() for output in found), "its output is not finite"
    return [tuple(output.shape) for output in found]


def _trains(model: nn.Module, example: Inputs) -> object:
    loss: Any = sum(output.float().square().mean() for output in outputs(model.train(), example))
    loss.backward()
    return sorted(name for name, own in model.named_parameters() if own.grad is not None)


def _takes_another_classifier(model: Any, example: Inputs) -> object:
    model.reset_classifier(CLASSES)
    assert model.num_classes == CLASSES, "num_classes is still what it was"
    return _runs(model, example)


def _takes_no_classifier(model: Any, example: Inputs) -> object:
    model.reset_classifier(0)
    (features,) = _run(model, example)
    width = getattr(model, "head_hidden_size", model.num_features)
    assert features.shape[1] == width, f"it returns {features.shape[1]} features and says {width}"
    return features.dim()


def _has_features(model: Any, example: Inputs) -> object:
    args, kwargs, _ = arguments(example)
    with torch.no_grad():
        found = model.forward_head(model.forward_features(*args, **kwargs))
    assert same([found], _run(model, example), ROUNDING), "its output is another"
    return tuple(found.shape)


def _names_its_ends(model: Any, example: Inputs) -> object:
    named = [model.pretrained_cfg[end] for end in ("first_conv", "classifier")]
    names = [name for one in named for name in ([one] if isinstance(one, str) else one or ())]
    assert all(f"{name}.weight" in model.state_dict() for name in names), f"it lacks one of {names}"
    return names


def _has_stages(model: Any, example: Inputs) -> object:
    args, kwargs, _ = arguments(example)
    with torch.no_grad():
        found = model.forward_intermediates(*args, **kwargs, intermediates_only=True)
    said = [info["num_chs"] for info in model.feature_info][-len(found) :]
    widths = [features.shape[1] for features in found]
    assert widths == said, f"they are {widths} wide, and it says {said}"
    return [tuple(features.shape[2:]) for features in found]


def _is_traced(model: nn.Module, example: Inputs) -> object:
    wanted = _run(model, example)
    traced = torch.fx.symbolic_trace(model)
    assert same(_run(traced, example), wanted, ROUNDING), "the graph computes something else"
    return len(wanted)


def _is_exported(model: nn.Module, example: Inputs) -> object:
    wanted = _run(model, example)
    args, kwargs, _ = arguments(example)
    exported = torch.export.export(model, args, kwargs).module()
    with torch.no_grad():
        found = outputs(exported, example)
    assert same(found, wanted, ROUNDING), "the exported model computes something else"
    return len(wanted)
