"""plain_layers: layers that compute their weight from parameters -> layers that have it.

Weight standardisation divides what a layer learns by its spread over the inputs, and a weight norm
does alike. Such a layer cannot lose inputs: those that are left would get other weights. But in
evaluation it is a linear map with one weight, and a plain layer with that weight can.

No class is asked for by name: a layer runs on a few inputs, and what it multiplies them with is
seen. Whatever a plain layer with that weight does not compute as well stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from ..errors import ArtifactError
from .copies import SETTERS, M, copy_with
from .layers import MATRICES

PRODUCTS = (F.linear, F.conv1d, F.conv2d, F.conv3d)
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5}
COARSE = 1e-2  # of types of two bytes, and of devices that round float32

Used = tuple[Tensor, Tensor | None]  # the weight and the bias that a layer multiplies with


def plain_layers(model: nn.Module, among: Collection[str] | None = None) -> dict[str, nn.Module]:
    """Return the layers that compute their weight, each by the first of its names, as plain ones.

    Args:
        model: In evaluation mode; not modified.
        among: Names of layers; all are looked at unless given.
    """
    found = {}
    for name, layer in model.named_modules():
        wanted = among is None or name in among
        if name and wanted and isinstance(layer, MATRICES) and _may_compute(layer):
            made = _plain(layer)
            if made is not None:
                found[name] = made
    return found


def named_plain(model: nn.Module, names: Collection[str], where: str) -> dict[str, nn.Module]:
    """Return layers that were made plain when a model was saved, as plain ones.

    Args:
        model: In evaluation mode; not modified.
        names: Their names.
        where: What to call the file that names them.

    Raises:
        ArtifactError: The model has no such layers.
    """
    found = plain_layers(model, names) if names else {}
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise ArtifactError(
            f"The plan in {where} says that layer {missing!r} of {type(model).__name__} was made "
            "plain, but no such layer computes its weight; load it with the model and the version "
            "of timm it was made for."
        )
    return found


def made_plain(model: M, layers: Mapping[str, nn.Module]) -> M:
    """Return a model with plain layers in place of others; it shares all else with the given one.

    Args:
        model: Not modified.
        layers: By their first names, see `plain_layers`.
    """
    made = copy_with(model, lambda _, tensor: tensor)
    instead = {id(made.get_submodule(name)): layer for name, layer in layers.items()}
    places = [(n, id(m)) for n, m in made.named_modules(remove_duplicate=False)]
    for name, identity in places:
        if identity in instead:
            parent, _, child = name.rpartition(".")
            setattr(made.get_submodule(parent), child, instead[identity])
    return made


def _may_compute(layer: nn.Module) -> bool:
    """Say whether a layer may multiply with something other than its weight."""
    own = type(layer)
    base = _base(layer)
    forwards = own.forward is base.forward and getattr(own, "_conv_forward", None) is getattr(
        base, "_conv_forward", None
    )
    return not forwards or "weight" not in layer._parameters


def _base(layer: nn.Module) -> type[nn.Module]:
    return next(base for base in MATRICES if isinstance(layer, base))


@torch.no_grad()
def _plain(layer: nn.Module) -> nn.Module | None:
    """Return a plain layer that does the same in evaluation; None if there is no such layer."""
    tried = copy_with(layer, lambda _, tensor: tensor.clone()).eval()
    setters = [hook for hook in tried._forward_pre_hooks.values() if isinstance(hook, SETTERS)]
    if "weight" not in tried._parameters and not setters and not parametrize.is_parametrized(tried):
        return None  # something else sets it, and nobody knows when
    for hooks in (tried._forward_pre_hooks, tried._forward_hooks):
        hooks.clear()  # what others have hooked in is not to be told of this
    for setter in setters:
        tried.register_forward_pre_hook(setter)
    try:
        with warnings.catch_warnings():  # the model will give them too, when it runs
            warnings.simplefilter("ignore")
            seen = [_watched(tried, x) for x in _inputs(tried)]
    except Exception:  # of the layer's own code
        return None
    used = [one for _, _, one in seen if one is not None]
    if len(used) < len(seen) or not all(_same(one, used[0]) for one in used):
        return None  # what it multiplies with depends on its input, or there is more than one
    weight, bias = used[0]
    own = tried._parameters.get("weight")
    if own is not None and own.shape == weight.shape and torch.equal(own, weight):
        return None
    for made in _candidates(layer, weight, bias):
        if all(_close(made(x), output) for x, output, _ in seen):
            return _in_place_of(layer, made)
    return None


def _inputs(layer: Any) -> Iterator[Tensor]:
    """Yield inputs; for a convolution, of several sizes, in which strides leave different rests."""
    like = next(layer.parameters())
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator).to(like)

    if isinstance(layer, nn.Linear):
        yield from (drawn(3, layer.in_features) for _ in range(2))
        return
    pairs = zip(layer.kernel_size, layer.dilation, strict=True)
    least = [dilation * (kernel - 1) + 1 for kernel, dilation in pairs]
    for more in range(1, 2 + max(2, *layer.stride)):
        yield drawn(layer.in_channels, *(size + more + n for n, size in enumerate(least)))


def _watched(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Used | None]:
    """Return an input, what a layer makes of it, and what it multiplied it with, if once."""
    watch = _Products()
    with watch:
        output = layer(x)
    return x, output, watch.used[0] if len(watch.used) == 1 else None


class _Products(TorchFunctionMode):
    """Notes what inputs are multiplied with, by linear layers and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[Used] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, and note it if it is such a product."""
        kwargs = kwargs or {}
        if func in PRODUCTS:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            self.used.append((given["weight"], given.get("bias")))
        return func(*args, **kwargs)


def _candidates(layer: Any, weight: Tensor, bias: Tensor | None) -> Iterator[nn.Module]:
    """Yield plain layers with a weight, which differ in how they pad."""
    named: dict[str, Any] = {"bias": bias is not None, "device": "meta"}
    if isinstance(layer, nn.Linear):
        yield _with(nn.Linear(layer.in_features, layer.out_features, **named), weight, bias)
        return
    sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride
    named |= {"dilation": layer.dilation, "groups": layer.groups}
    base: Any = _base(layer)
    alike = base(*sizes, padding=layer.padding, padding_mode=layer.padding_mode, **named)
    yield _with(alike, weight, bias)
    if base is nn.Conv2d:
        yield _with(Conv2dSame(*sizes, **named), weight, bias)


def _with(made: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made.eval()


def _in_place_of(layer: nn.Module, made: nn.Module) -> nn.Module:
    """Return a plain layer that trains, and tells others, as the given one does."""
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    made.requires_grad_(trained).train(layer.training)
    made._forward_hooks.update(layer._forward_hooks)
    made._forward_hooks_with_kwargs.update(layer._forward_hooks_with_kwargs)
    made._forward_hooks_always_called.update(layer._forward_hooks_always_called)
    for key, hook in layer._forward_pre_hooks.items():
        if not isinstance(hook, SETTERS):
            made._forward_pre_hooks[key] = hook
    made._forward_pre_hooks_with_kwargs.update(layer._forward_pre_hooks_with_kwargs)
    return made


def _same(one: Used, other: Used) -> bool:
    pairs = zip(one, other, strict=True)
    return all(
        a is b if a is None or b is None else a.shape == b.shape and torch.equal(a, b)
        for a, b in pairs
    )


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    share = COARSE if expected.is_cuda else ROUNDING.get(expected.dtype, COARSE)
    rounding = share * expected.abs().max()
    return bool(((found - expected).abs() <= rounding).all())
