"""prune: the straight line from a model to a smaller one."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import zoo
from .adapters.base import Adapter, adapter_for, select
from .axis import Axis, AxisSpec
from .calibrate import gather_gradients
from .criteria import CRITERIA
from .criteria.base import SCOPES, Criterion, Scope
from .data import Data, InputSpec, batches, open_data
from .errors import AdapterError, BudgetError, CriterionError, DataError, ParityError
from .graph import mask_, shrunk, trace
from .measure import (
    EVAL_BATCH,
    Stats,
    accuracy,
    find_device,
    latencies,
    mac_terms,
    param_terms,
    peak_memory,
    stats,
)
from .models import Architecture, build
from .plan import BYS, CLOSE_ENOUGH, Budget, By, Plan, make_plan
from .provenance import processor, versions
from .registry import unknown
from .result import Parity, Result
from .structure import copy_with

CALIBRATION_BATCH = 64  # images in a forward and backward pass
TOLERANCE = 1e-4  # largest difference from the masked model, of its output's scale


def prune(
    model: nn.Module | str,
    criterion: str | Criterion = "dimap",
    ratio: float = 0.5,
    *,
    by: By = "params",
    scope: Scope | None = None,
    axes: Sequence[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    floor: float = 0.1,
    multiple: int = 8,
    adapter: Adapter | None = None,
    example_input: Tensor | None = None,
    weights: str = "auto",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    calibration: int = 512,
    evaluate: bool = False,
    device: str = "auto",
    seed: int = 0,
    on_step: Callable[[str], None] = lambda step: None,
) -> Result:
    """Make a physically smaller model.

    Args:
        model: An architecture name, or a model of your own; that one is never modified.
        criterion: A registered name, with options such as "magnitude:p=1", or a Criterion.
        ratio: The fraction of the whole model to remove, in (0, 1).
        by: What the ratio counts: `params`, `macs`, or `slices` of the chosen axes.
        scope: Where slices compete: within an `axis`, all axes of a `kind`, or the `model`;
            the criterion's own scope unless given.
        axes: Kinds of axes that may shrink; the adapter's default unless given.
        include: Globs on axis names; only these may shrink. All unless given.
        exclude: Globs on axis names that may not shrink.
        floor: The smallest fraction of an axis to keep.
        multiple: Kept MLP and width sizes are multiples of this.
        adapter: What knows the model; found among the registered ones unless given.
        example_input: One batch of inputs; needed for models that are not timm's.
        weights: For a name: `auto`, `pretrained`, `random` or a file.
        data: A named data set or an image folder; the zoo's own for a model of the zoo.
        data_dir: Where the full Fashion-MNIST lies.
        calibration: How many calibration images a criterion may see.
        evaluate: Also measure latency, memory and, where there is data, accuracy.
        device: `auto`, `cpu` or `cuda`; a model of your own stays where it is on `auto`.
        seed: Seed of random weights and scores, calibration images and the parity input.
        on_step: Called with the name of each step as it starts.

    Raises:
        PruneError: One of its children, in a sentence that says what to do; nothing has
            been modified or written then.
    """
    chosen = configure(criterion, seed)
    budget = _precheck(ratio, by, scope, calibration)
    scope = scope or chosen.scope
    steps = _Steps(on_step)
    with steps("build"):
        subject = _subject(model, weights, adapter, example_input, device, seed)
        images = _images(subject, data, data_dir, evaluate or chosen.needs != "nothing")
    with steps("trace"):
        kinds = tuple(axes or subject.adapter.default_kinds)
        specs = _specs(subject, kinds, include, exclude)
        traced = trace(subject.model, specs, subject.adapter, subject.example)
    with steps("score"):
        scores = chosen(_informed(traced, chosen, subject, images, calibration, seed))
    with steps("plan"):
        budget = _filled(budget, traced, subject)
        plan = make_plan(traced, scores, budget, scope=scope, floor=floor, multiple=multiple)
    with steps("shrink"):
        silenced = _masked_output(subject, traced, plan)
        small = shrunk(subject.model, traced, plan, subject.adapter).eval()
    with steps("verify"):
        parity = _parity(silenced, small, subject.example)
    with steps("measure"):
        before, after = _measured((subject.model, small), subject.example, images, evaluate)
    recipe = {
        **subject.origin(),
        "criterion": chosen.name,
        "options": dict(chosen.options),
        "scope": scope,
        "axes": list(kinds),
        "include": list(include),
        "exclude": list(exclude),
        "ratio": ratio,
        "by": by,
        "floor": floor,
        "multiple": multiple,
        "data": images.name if images else None,
        "calibration": calibration if chosen.needs != "nothing" else None,
        "seed": seed,
        **_setting(small),
    }
    warnings = (*subject.warnings, *_misses(plan, multiple))
    found = {axis.name: axis.kind for axis in traced}
    architecture = subject.architecture
    return Result(
        small, plan, before, after, parity, recipe, steps.seconds, warnings, architecture, found
    )


def configure(criterion: str | Criterion, seed: int) -> Criterion:
    """Find a criterion and give it its options; one that takes a seed gets the run's.

    Args:
        criterion: A Criterion, or a name with options: "magnitude", "magnitude:p=1".
        seed: For criteria with a `seed` option that was not given.

    Raises:
        RegistryError: Nothing has that name.
        CriterionError: It has no such option, or the value is not understood.
    """
    if isinstance(criterion, str):
        name, _, text = criterion.partition(":")
        found = CRITERIA.get(name)
        given = [part.partition("=") for part in text.split(",") if part]
        criterion = found.configure(**{key: found.parse(key, value) for key, _, value in given})
    if "seed" in criterion.defaults and "seed" not in criterion.options:
        criterion = criterion.configure(seed=seed)
    return criterion


@dataclass(frozen=True)
class _Subject:
    """The model at hand, and what is known about it."""

    model: nn.Module
    adapter: Adapter
    example: Tensor
    architecture: Architecture | None
    weights: str
    warnings: tuple[str, ...]

    def origin(self) -> dict[str, Any]:
        built = self.architecture
        arch = built.name if built else type(self.model).__name__
        return {"arch": arch, "weights": self.weights, "adapter": self.adapter.name}


class _Steps:
    """Names each step as it starts, and notes how long it took."""

    def __init__(self, on_step: Callable[[str], None]):
        self._on_step = on_step
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._on_step(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def _precheck(ratio: float, by: str, scope: str | None, calibration: int) -> Budget:
    """Refuse what cannot be right before anything slow happens."""
    if by not in BYS:
        raise BudgetError(unknown("budget", by, BYS))
    if scope is not None and scope not in SCOPES:
        raise CriterionError(unknown("scope", scope, SCOPES))
    if calibration < 1:
        raise DataError(f"Asked for {calibration} calibration images; expected 1 or more.")
    return Budget(ratio, next(known for known in BYS if known == by), total=0)


def _subject(
    model: nn.Module | str,
    weights: str,
    adapter: Adapter | None,
    example: Tensor | None,
    device: str,
    seed: int,
) -> _Subject:
    architecture: Architecture | None = None
    source, warnings = "the caller's", tuple[str, ...]()
    if isinstance(model, str):
        built = build(model, weights, seed)
        model, architecture = built.model, built.architecture
        source, warnings = built.weights, built.warnings
        model = model.to(find_device(device))
    elif device != "auto":
        target = find_device(device)
        model = copy_with(model, lambda _, tensor: tensor.to(target))
    adapter = adapter or adapter_for(model)
    if example is None:
        if not hasattr(model, "pretrained_cfg"):
            raise AdapterError(
                f"{type(model).__name__} is not a timm model, so its input is unknown; pass "
                "example_input, one batch of inputs."
            )
        example = InputSpec.of(model).example(seed, batch=2)
    return _Subject(model, adapter, example, architecture, source, tuple(warnings))


def _images(
    subject: _Subject, data: str | Path | None, data_dir: str | Path | None, wanted: bool
) -> Data | None:
    if data is None and subject.architecture and subject.architecture.card:
        data = zoo.DATA
    return open_data(str(data), subject.model, data_dir) if wanted and data is not None else None


def _specs(
    subject: _Subject, kinds: Sequence[str], include: Sequence[str], exclude: Sequence[str]
) -> list[AxisSpec]:
    """Return the axes that may shrink."""
    declared = select(subject.adapter.axes(subject.model), kinds, subject.adapter)
    for pattern in (*include, *exclude):
        if not any(fnmatch.fnmatchcase(spec.name, pattern) for spec in declared):
            raise AdapterError(
                f"The pattern {pattern!r} matches no axis; the axes are called like "
                f"{', '.join(spec.name for spec in declared[:3])}."
            )
    chosen = [
        spec
        for spec in declared
        if (not include or any(fnmatch.fnmatchcase(spec.name, p) for p in include))
        and not any(fnmatch.fnmatchcase(spec.name, p) for p in exclude)
    ]
    if not chosen:
        raise AdapterError("The patterns leave no axis to shrink; exclude less, or include more.")
    torn = {s.match for s in chosen if s.match} & {s.match for s in declared if s not in chosen}
    if torn:
        raise AdapterError(
            f"The patterns separate axes of {min(map(str, torn))!r} that must keep equally many "
            "slices; include or exclude them together."
        )
    return chosen


def _informed(
    axes: list[Axis],
    criterion: Criterion,
    subject: _Subject,
    images: Data | None,
    calibration: int,
    seed: int,
) -> list[Axis]:
    """Give the criterion what it declared that it needs, and nothing else."""
    if criterion.needs == "nothing":
        return axes
    if images is None or images.calibration is None:
        raise DataError(
            f"Criterion {criterion.name!r} needs calibration images; pass data, such as "
            "fashion-mnist-mini or a folder with a train folder in it."
        )
    drawn = batches(images.calibration, CALIBRATION_BATCH, limit=calibration, seed=seed)
    return gather_gradients(subject.model, axes, drawn)


def _filled(budget: Budget, axes: Sequence[Axis], subject: _Subject) -> Budget:
    """Put the model's costs into the budget."""
    if budget.by == "slices":
        return replace(budget, total=float(sum(axis.size for axis in axes)))
    if budget.by == "macs":
        terms = mac_terms(subject.model, axes, subject.example)
    else:
        terms = param_terms(subject.model)
    return replace(budget, total=sum(term.cost for term in terms), terms=terms)


@torch.inference_mode()
def _masked_output(subject: _Subject, axes: Sequence[Axis], plan: Plan) -> Tensor:
    """Return what the large model computes with the removed slices silenced."""
    masked = copy_with(subject.model, lambda _, tensor: tensor.clone())
    mask_(masked, axes, plan)
    return _output(masked, subject.example)


def _output(model: nn.Module, example: Tensor) -> Tensor:
    """Return the output in float32, or the features if an untrained head gives only zeros."""
    model = model.eval().float()
    x = example.to(next(model.parameters()).device, torch.float32)
    output: Tensor = model(x)
    if not output.any() and hasattr(model, "forward_features"):
        features: Any = model.forward_features
        output = features(x)
    return output


@torch.inference_mode()
def _parity(silenced: Tensor, small: nn.Module, example: Tensor) -> Parity:
    """Compare the small model with the masked one.

    Raises:
        ParityError: They differ, or the output is so trivial that they could not.
    """
    dtype = next(small.parameters()).dtype
    # The scale of attention is folded into the weights, which half precision rounds once.
    tolerance = max(TOLERANCE, torch.finfo(dtype).eps if dtype.itemsize < 4 else 0)
    exact = small if dtype == torch.float32 else copy_with(small, lambda _, tensor: tensor.clone())
    found = _output(exact, example)
    difference = float((found - silenced).abs().max())
    scale = float(silenced.abs().max())
    parity = Parity(difference, scale, tolerance)
    if not scale > 0:  # zero or NaN
        raise ParityError(
            "The masked model's output is all zeros or not a number, so nothing can be verified; "
            "check the weights."
        )
    if not parity.holds:
        raise ParityError(
            f"The pruned model differs from the masked model by {difference:.2e}, where the "
            f"output's scale is {scale:.2e} and at most {tolerance:g} of that is allowed: the "
            "adapter misses something that the pruned axes are tied to. Nothing was saved."
        )
    return parity


def _measured(
    models: tuple[nn.Module, nn.Module], example: Tensor, images: Data | None, evaluate: bool
) -> tuple[Stats, Stats]:
    """Return what the large and the small model cost; both are timed side by side."""
    before, after = (stats(model, example) for model in models)
    if evaluate:
        timed = latencies(models, example)
        peaks = [peak_memory(model, example) for model in models]
        before, after = (
            replace(side, latency_ms=times, memory_bytes=peak)
            for side, times, peak in zip((before, after), timed, peaks, strict=True)
        )
    if evaluate and images is not None:
        tests = [accuracy(model, batches(images.test, EVAL_BATCH)) for model in models]
        before, after = (
            replace(side, top1=top1, top5=top5, images=count)
            for side, (top1, top5, count) in zip((before, after), tests, strict=True)
        )
    return before, after


def _setting(model: nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _misses(plan: Plan, multiple: int) -> list[str]:
    if abs(plan.got - plan.asked) <= CLOSE_ENOUGH:
        return []
    return [
        f"Asked to remove {plan.asked:.1%} of {plan.by}, got {plan.got:.1%}: whole slices and "
        f"multiples of {multiple} come no closer."
    ]
