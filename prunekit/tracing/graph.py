"""trace: the only file that imports torch-pruning.

Its dependency graph is built once, on the meta device, and says which dimensions are coupled and
where; from then on everything is index arithmetic on tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..adapters.answers import role_of, unfollowed_by
from ..adapters.base import Adapter
from ..adapters.within import Within, renamed
from ..arguments import Inputs, call
from ..axis import AUX, Axis, AxisSpec, Member
from ..errors import AdapterError, ReachesOutput
from .coupling import Coupling, coupled
from .layers import MATRICES
from .norms import is_norm
from .running import dry_run, reason, without_collection
from .shapes import Shapes


def trace(
    model: nn.Module, specs: Sequence[AxisSpec], adapter: Adapter, example: Inputs
) -> list[Axis]:
    """Find every parameter that shrinks with each axis, and where.

    Args:
        model: Left untouched; a weightless copy is run on the meta device.
        specs: What may shrink.
        adapter: Knows roles, and what the graph must not follow.
        example: One input batch; only shape and dtype matter.

    Raises:
        ReachesOutput: A spec couples the model's own output.
        AdapterError: It names something the model lacks, or couples something that cannot shrink
            consistently.
    """
    with without_collection():
        if not isinstance(adapter, Within):
            return _trace(model, specs, adapter, example)
        inner = [renamed(spec, lambda name: adapter.inward(name) or name) for spec in specs]
        axes = _trace(adapter.inside(model), inner, adapter.inner, adapter.inputs)
        return [axis.renamed(spec, adapter.outward) for axis, spec in zip(axes, specs, strict=True)]


def trace_inside(
    model: nn.Module, specs: Sequence[AxisSpec], adapter: Adapter, example: Inputs
) -> list[Axis]:
    """Trace the axes that do not reach the model's output, see `trace`.

    Raises:
        ReachesOutput: All of them do.
        AdapterError: As `trace` says.
    """
    left = list(specs)
    while True:
        try:
            return trace(model, left, adapter, example)
        except ReachesOutput as error:
            left = [spec for spec in left if spec.name != error.axis]
            if not left:
                raise


def _trace(
    model: nn.Module, specs: Sequence[AxisSpec], adapter: Adapter, example: Inputs
) -> list[Axis]:
    follow = _Graph(model, example) if any(spec.layer for spec in specs) else None
    unfollowed = set(unfollowed_by(adapter, model))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    norms = {name for name, module in model.named_modules() if is_norm(module)}
    axes = []
    for spec in specs:
        found = follow.positions(spec) if follow and spec.layer else _Found(spec)
        found.drop(unfollowed)
        for tie in spec.ties:
            found.tensors[tie.parameter, tie.dim] = tie.fold.index()
        axes.append(_axis(spec, found, tensors, norms, adapter))
    return axes


class _Found:
    """What shrinks with one axis: positions by (tensor, dimension), and norms by module."""

    def __init__(self, spec: AxisSpec):
        self.spec = spec
        self.tensors: dict[tuple[str, int], Tensor] = {}
        self.norms: list[str] = []
        self.folding = {(tie.parameter, tie.dim) for tie in spec.ties if tie.folds}

    def drop(self, names: set[str]) -> None:
        """Forget what the adapter says not to follow: parameters, or whole modules."""
        self.tensors = {
            (name, dim): index
            for (name, dim), index in self.tensors.items()
            if not {name, _parent(name)} & names
        }
        self.norms = [norm for norm in self.norms if norm not in names]


class _Graph:
    """torch-pruning's dependency graph of a weightless copy of the model."""

    def __init__(self, model: nn.Module, example: Inputs):
        # The graph is read off autograd, whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch_pruning")  # of bare parameters
            shell, self._graph, self._ends = dry_run(model, example, _built)
        self._modules = dict(shell.named_modules())
        self._names = {module: name for name, module in self._modules.items()}

    def positions(self, spec: AxisSpec) -> _Found:
        """Follow the channels of the spec's layer to all that is coupled with them."""
        layer = self._modules.get(spec.layer or "")
        if layer is None:
            raise AdapterError(
                f"Axis {spec.name!r} is defined by layer {spec.layer!r}, which the model does not "
                "have; name a layer as named_modules() does. A layer that stands in several places "
                "has its first name only."
            )
        if not isinstance(layer, MATRICES):
            raise AdapterError(
                f"Axis {spec.name!r} is defined by layer {spec.layer!r}, which is "
                f"{type(layer).__name__}; expected a linear or convolution layer of the model."
            )
        if layer not in self._graph.module2node:
            raise AdapterError(
                f"Axis {spec.name!r} is defined by layer {spec.layer!r}, which took no part in the "
                "forward pass; name another layer or another example input."
            )
        pruner = self._graph.get_pruner_of_module(layer)
        start = pruner.prune_out_channels if spec.side == "out" else pruner.prune_in_channels
        channels = layer.weight.shape[0 if spec.side == "out" else 1]
        slice_of = _slice_of_channel(spec, channels)
        found = _Found(spec)
        try:
            items = coupled(self._graph.module2node[layer], start, channels)
        except Exception as error:  # of torch-pruning's mappings
            raise AdapterError(
                f"Axis {spec.name!r} cannot be followed from layer {spec.layer!r} "
                f"({reason(error)}); describe it by ties alone, without a layer."
            ) from error
        for item in items:
            self._add(found, item, slice_of)
        return found

    def _add(self, found: _Found, item: Coupling, slice_of: Tensor) -> None:
        target, handler = item.target, item.handler
        # Where a layer has the last word, torch-pruning adds no node for the output.
        last = not target.outputs or target.grad_fn in self._ends
        inward = handler.__name__.endswith("in_channels")
        if isinstance(target.module, tp.ops._OutputOp) or (last and not inward):
            raise ReachesOutput(found.spec.name)
        dims = self._dims(found.spec, target.module, handler)
        if not dims:
            return
        index = _gather(item.positions.here, slice_of[item.positions.root], found.spec)
        for key in dims:
            found.tensors[key] = index
        if is_norm(target.module):  # even one without parameters
            found.norms.append(self._names[target.module])

    def _dims(self, spec: AxisSpec, target: Any, handler: Any) -> list[tuple[str, int]]:
        """Return the tensor dimensions that shrink when `handler` prunes `target`."""
        if isinstance(target, nn.Parameter):
            name = self._graph._param_to_name[target]
            return [(name, int(self._graph.module2node[target].pruning_dim))]
        if isinstance(target, tp.ops.DummyMHA | nn.MultiheadAttention | nn.LSTM | nn.GRU):
            raise AdapterError(
                f"Axis {spec.name!r} reaches {self._names.get(target)!r}, which is "
                f"{type(target).__name__}; prunekit shrinks linear, convolution, normalisation and "
                "embedding layers."
            )
        name = self._names.get(target)
        if name is None:  # reshapes, additions and the like
            return []
        inputs = handler.__name__.endswith("in_channels")
        if isinstance(target, MATRICES):
            return self._layer_dims(spec, name, target, inputs)
        own = [*target.named_parameters(recurse=False), *target.named_buffers(recurse=False)]
        if isinstance(target, nn.Embedding):
            return [(f"{name}.weight", 1)]
        return [(f"{name}.{part}", 0) for part, tensor in own if tensor.dim() == 1]

    def _layer_dims(
        self, spec: AxisSpec, name: str, layer: Any, inputs: bool
    ) -> list[tuple[str, int]]:
        groups = getattr(layer, "groups", 1)
        if groups > 1 and groups != layer.out_channels:
            raise AdapterError(
                f"Axis {spec.name!r} reaches {name!r}, a convolution in {groups} groups; prunekit "
                "shrinks plain and depthwise convolutions."
            )
        if inputs and groups == 1:
            return [(f"{name}.weight", 1)]
        # A depthwise convolution has one input channel per output channel, on dimension 0.
        return [(f"{name}.{part}", 0) for part, _ in layer.named_parameters(recurse=False)]


def _built(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Any, set[object]]:
    """Run a model and build its graph; return both, and the ends of the graph, its outputs."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    outputs: list[Tensor] = []

    def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
        with Shapes():  # type: ignore[no-untyped-call]
            leaves = tree_leaves(call(model, inputs))
        outputs.extend(x for x in leaves if isinstance(x, Tensor) and x.grad_fn is not None)
        return outputs

    graph = tp.DependencyGraph()
    try:
        graph.build_dependency(model, inputs, forward_fn=run, verbose=False)
    except Exception as error:
        if not outputs:  # it was the model that failed
            raise
        raise AdapterError(
            f"The layers of {type(model).__name__} are connected in a way that cannot be followed "
            f"({reason(error)}); have its adapter describe axes by ties alone, without a layer."
        ) from error
    if not outputs:
        raise AdapterError(
            f"{type(model).__name__} returns nothing that depends on its weights, so nothing can "
            "be followed through it; return a tensor that does, with gradients."
        )
    return model, graph, {output.grad_fn for output in outputs}


def _slice_of_channel(spec: AxisSpec, channels: int) -> Tensor:
    """Return which slice each channel of the defining layer belongs to, (channels,)."""
    if spec.fold is None:
        return torch.arange(channels)
    index = spec.fold.index()
    if index.numel() != channels:
        raise AdapterError(
            f"Axis {spec.name!r} folds {index.numel()} channels, but layer {spec.layer!r} has "
            f"{channels}."
        )
    owner = torch.empty(channels, dtype=torch.int64)
    owner[index] = torch.arange(len(index)).unsqueeze(1).expand_as(index)
    return owner


def _gather(positions: Tensor, owners: Tensor, spec: AxisSpec) -> Tensor:
    """Turn pairs of position and owning slice into (size, k) positions."""
    positions, order = positions.sort()
    owners = owners[order]
    by_owner = owners.argsort(stable=True)
    counts = owners.bincount()
    if int(counts.min()) != int(counts.max()):
        raise AdapterError(
            f"Axis {spec.name!r} gives its slices unequal shares of a dimension; expected equal "
            "ones. Describe that dimension with a Tie."
        )
    return positions[by_owner].view(len(counts), -1)


def _axis(
    spec: AxisSpec,
    found: _Found,
    tensors: Mapping[str, Tensor],
    norms: Collection[str],
    adapter: Adapter,
) -> Axis:
    sizes = {len(index) for index in found.tensors.values()}
    if not sizes:
        raise AdapterError(
            f"Axis {spec.name!r} reaches only parameters that the adapter's unfollowed() names; "
            "name fewer there, or give the axis ties."
        )
    if len(sizes) != 1:
        raise AdapterError(
            f"Axis {spec.name!r} couples dimensions of {sorted(sizes)} slices; expected one number."
        )
    size = sizes.pop()
    members = []
    for (name, dim), index in found.tensors.items():
        tensor = tensors.get(name)
        if tensor is None or dim >= tensor.dim() or int(index.max()) >= tensor.shape[dim]:
            shape = None if tensor is None else tuple(tensor.shape)
            raise AdapterError(
                f"Axis {spec.name!r} cuts dimension {dim} of {name!r} at {int(index.max())}, but "
                f"its shape is {shape}; correct the adapter's ties."
            )
        role = role_of(adapter, name) if tensor.dim() > 1 and _has_say(spec, name) else AUX
        folds = (name, dim) in found.folding
        members.append(Member(name, role, dim, index, tensor.detach(), folds=folds))
    if all(member.role == AUX for member in members):
        raise AdapterError(
            f"Axis {spec.name!r} has no weight matrix with a say in its score; give one a role "
            "other than 'aux' in the adapter."
        )
    if size % spec.groups:
        raise AdapterError(f"Axis {spec.name!r} has {size} slices in {spec.groups} groups.")
    return Axis(spec, size, tuple(members), _norms(found, norms, size))


def _has_say(spec: AxisSpec, parameter: str) -> bool:
    """Say whether a matrix may have a say: of a branch, only what writes to the stream has one."""
    return spec.branch is None or parameter == f"{spec.branch.last}.weight"


def _norms(found: _Found, norms: Collection[str], size: int) -> dict[str, Tensor]:
    """Return the positions each slice owns in every module that normalises over the axis."""
    if found.spec.branch is not None:  # a norm that leaves has nothing to normalise over
        return {}
    over = {name: torch.arange(size).unsqueeze(1) for name in found.norms}
    for (name, _), index in found.tensors.items():
        if _parent(name) in norms:
            over[_parent(name)] = index
    return over


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
