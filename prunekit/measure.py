"""What a model costs: parameters, multiply-accumulates, bytes, latency, memory, accuracy."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .axis import Axis
from .data import check_labels
from .errors import DeviceError
from .plan import Term
from .structure import weightless

BATCHES = (1, 8)  # images in a forward pass that is timed
EVAL_BATCH = 250  # images in a forward pass that is not
WARM_UP = 2  # passes that are not timed
REPEATS = (5, 40)  # fewest and most passes that are, and for how long to go on with them
ENOUGH_SECONDS = 5.0


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass.

    Attributes:
        median: Milliseconds.
        low, high: Quartiles, milliseconds.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Stats:
    """What one model costs, and what it is worth.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of one forward pass of one image, in matrix products and
            convolutions; half of what torch's FlopCounterMode counts.
        size_bytes: Bytes of all parameters and persistent buffers.
        latency_ms: Batch size to the time of a forward pass; empty if not measured.
        memory_bytes: Peak memory of a forward pass at the largest of those batch sizes, on
            top of the model itself; None if not measured.
        top1, top5: Percentage of test images; None if not measured.
        images: How many test images those are of.
    """

    params: int
    macs: int
    size_bytes: int
    latency_ms: dict[int, Latency]
    memory_bytes: int | None = None
    top1: float | None = None
    top5: float | None = None
    images: int | None = None


def stats(model: nn.Module, example: Tensor) -> Stats:
    """Count parameters, MACs and bytes; nothing is run on real data."""
    tensors = model.state_dict().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    params = sum(parameter.numel() for parameter in model.parameters())
    return Stats(params, sum(macs_by_module(model, example).values()), size, {})


def macs_by_module(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Count the MACs of one image in every module's own arithmetic, its children left out.

    The model is run on the meta device, so this takes no memory and little time.
    """
    shell, one = weightless(model, example[:1])
    counter = FlopCounterMode(display=False)
    # Fused attention counts differently from kernel to kernel; the plain form does not.
    with (
        torch.no_grad(),
        counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        shell.eval()(one)
    root = type(shell).__name__
    totals = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    own = dict(totals)
    for name, total in totals.items():
        if name:
            own[name.rpartition(".")[0]] -= total
    return own


def param_terms(model: nn.Module) -> tuple[Term, ...]:
    """Return every parameter's share of the parameter count."""
    return tuple(
        Term(parameter.numel(), tuple((name, dim) for dim in range(parameter.dim())))
        for name, parameter in model.named_parameters()
    )


def mac_terms(model: nn.Module, axes: Sequence[Axis], example: Tensor) -> tuple[Term, ...]:
    """Return every module's share of the MACs, and what it is proportional to.

    A layer's MACs are proportional to the dimensions of its weight; what a module computes
    itself, such as attention's matrix products, to the axes that name it as their owner.
    """
    owned: dict[str, tuple[tuple[str, int], ...]] = {}
    for axis in axes:
        if axis.spec.owner:
            owned[axis.spec.owner] = ((axis.voters[0].name, axis.voters[0].dim),)
    shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    terms = []
    for name, macs in macs_by_module(model, example).items():
        weight = f"{name}.weight"
        if name in owned:
            terms.append(Term(macs, owned[name]))
        elif shapes.get(weight, 0) > 1:
            terms.append(Term(macs, ((weight, 0), (weight, 1))))
        else:
            terms.append(Term(macs, ()))
    return tuple(terms)


def latencies(models: Sequence[nn.Module], example: Tensor) -> list[dict[int, Latency]]:
    """Time the models at every batch size of `BATCHES`; one dictionary per model."""
    by_batch = {batch: latency(models, example, batch) for batch in BATCHES}
    return [{batch: by_batch[batch][n] for batch in BATCHES} for n in range(len(models))]


@torch.inference_mode()
def latency(models: Sequence[nn.Module], example: Tensor, batch: int) -> list[Latency]:
    """Time forward passes of several models side by side, so that noise hits all alike.

    Args:
        models: Each on the device it is to be timed on.
        example: Inputs; the first image is repeated.
        batch: Images in a forward pass.

    Returns:
        For each model the median and the quartiles of the passes after `WARM_UP`: at least
        the fewest of `REPEATS`, at most the most, and no more after `ENOUGH_SECONDS`.
    """
    times: list[list[float]] = [[] for _ in models]
    inputs = [_batch(model, example, batch) for model in models]
    fewest, most = REPEATS
    turns = list(zip(models, inputs, times, strict=True))
    for repeat in range(-WARM_UP, most):
        turns.reverse()  # whatever else comes and goes in step should not hit the same one always
        for model, x, taken in turns:
            seconds = _time(model, x)
            if repeat >= 0:
                taken.append(1000 * seconds)
        if repeat + 1 >= fewest and sum(map(sum, times)) > 1000 * ENOUGH_SECONDS:
            break
    found = []
    for taken in times:
        low, median, high = statistics.quantiles(taken, n=4)
        found.append(Latency(round(median, 3), round(low, 3), round(high, 3)))
    return found


@torch.inference_mode()
def peak_memory(model: nn.Module, example: Tensor, batch: int = BATCHES[-1]) -> int:
    """Return the bytes a forward pass needs at its peak, on top of the model."""
    x = _batch(model, example, batch)
    return peak_bytes(lambda: model(x), model, x)


def peak_bytes(work: Callable[[], object], model: nn.Module, *others: Tensor) -> int:
    """Return the bytes of tensors that some work needs at its peak.

    Args:
        work: Does it.
        model: What it works on; its own bytes are not counted.
        others: What else was there before.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    live = _LiveBytes([*model.parameters(), *model.buffers(), *others])
    with live:
        work()
    return live.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors alive at once, but for those that were there before."""

    def __init__(self, present: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in present}
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, address, size)

    def _drop(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def find_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device that is there.

    Raises:
        DeviceError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise DeviceError(
            f"The device {name!r} is not there; expected auto, cpu or an existing cuda."
        )
    return torch.device(name)


def accuracy(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float, int]:
    """Return top-1 and top-5 as percentages, and the number of images.

    Raises:
        DataError: A label is outside the model's classes.
    """
    found = hits(model, images)
    return (*percentages(found), len(found))


def percentages(found: Tensor) -> tuple[float, float]:
    """Turn hits into top-1 and top-5 percentages."""
    top1, top5 = (100 * found.double().mean(0)).tolist()
    return round(top1, 3), round(top5, 3)


@torch.inference_mode()
def hits(model: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return whether each image's class came first, and among the first five, (images, 2) bool.

    Raises:
        DataError: A label is outside the model's classes.
    """
    device = next(model.parameters()).device
    found = []
    for x, y in images:
        logits = model(x.to(device)).float().cpu()
        check_labels(y, logits.shape[1])
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (batch, 5)
        right = ranked == y.unsqueeze(1)
        found.append(torch.stack([right[:, 0], right.any(1)], dim=1))
    return torch.cat(found)


def _batch(model: nn.Module, example: Tensor, batch: int) -> Tensor:
    parameter = next(model.parameters())
    return (
        example[:1].repeat(batch, *[1] * (example.dim() - 1)).to(parameter.device, parameter.dtype)
    )


def _time(model: nn.Module, x: Tensor) -> float:
    _wait(x.device)
    start = time.perf_counter()
    model(x)
    _wait(x.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
