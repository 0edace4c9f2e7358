"""prune: the straight line from a model to a smaller one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .axis import Axis
from .calibrate import gather_gradients
from .criteria import CRITERIA
from .criteria.base import SCOPES, Criterion, Scope
from .data import Data, batches
from .errors import BudgetError, CriterionError, DataError
from .graph import trace
from .measure import (
    EVAL_BATCH,
    Stats,
    accuracy,
    latencies,
    mac_terms,
    param_terms,
    peak_memory,
    stats,
)
from .plan import BYS, CLOSE_ENOUGH, Budget, By, make_plan
from .provenance import processor, versions
from .registry import unknown
from .result import Result
from .shrink import shrunk
from .subject import Subject, find_images, find_specs, find_subject
from .verify import silence, verify

CALIBRATION_BATCH = 64  # images in a forward and backward pass


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
        subject = find_subject(model, weights, adapter, example_input, device, seed)
        images = find_images(subject, data, data_dir, evaluate or chosen.needs != "nothing")
    with steps("trace"):
        kinds = tuple(axes or subject.adapter.default_kinds)
        specs = find_specs(subject, kinds, include, exclude)
        traced = trace(subject.model, specs, subject.adapter, subject.example)
    with steps("score"):
        scores = chosen(_informed(traced, chosen, subject, images, calibration, seed))
    with steps("plan"):
        budget = _filled(budget, traced, subject)
        plan = make_plan(traced, scores, budget, scope=scope, floor=floor, multiple=multiple)
    with steps("silence"):  # before there is a small model, to have one copy at a time
        reference = silence(subject, traced, plan)
    with steps("shrink"):
        small = shrunk(subject.model, traced, plan, subject.adapter).eval()
    with steps("verify"):
        parity = verify(reference, small)
    with steps("measure"):
        before, after = _measured((subject.model, small), subject.example, evaluate)
    if evaluate and images:
        with steps("evaluate"):
            before, after = _tested((subject.model, small), (before, after), images)
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
    result = Result(
        small,
        plan,
        before,
        after,
        parity,
        recipe,
        steps.seconds,
        warnings=subject.warnings,
        architecture=subject.architecture,
        kinds={axis.name: axis.kind for axis in traced},
    )
    return replace(result, warnings=(*result.warnings, *_misses(result)))


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


def _informed(
    axes: list[Axis],
    criterion: Criterion,
    subject: Subject,
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


def _filled(budget: Budget, axes: Sequence[Axis], subject: Subject) -> Budget:
    """Put the model's costs into the budget."""
    if budget.by == "slices":
        return replace(budget, total=float(sum(axis.size for axis in axes)))
    if budget.by == "macs":
        terms = mac_terms(subject.model, axes, subject.example)
    else:
        terms = param_terms(subject.model)
    return replace(budget, total=sum(term.cost for term in terms), terms=terms)


def _measured(
    models: tuple[nn.Module, nn.Module], example: Tensor, timed: bool
) -> tuple[Stats, Stats]:
    """Return what the large and the small model cost; both are timed side by side."""
    before, after = (stats(model, example) for model in models)
    if not timed:
        return before, after
    times = latencies(models, example)
    peaks = [peak_memory(model, example) for model in models]
    return (
        replace(before, latency_ms=times[0], memory_bytes=peaks[0]),
        replace(after, latency_ms=times[1], memory_bytes=peaks[1]),
    )


def _tested(
    models: tuple[nn.Module, nn.Module], sides: tuple[Stats, Stats], images: Data
) -> tuple[Stats, Stats]:
    """Add the accuracies on all test images."""
    found = []
    for model, side in zip(models, sides, strict=True):
        top1, top5, count = accuracy(model, batches(images.test, EVAL_BATCH))
        found.append(replace(side, top1=top1, top5=top5, images=count))
    return found[0], found[1]


def _setting(model: nn.Module) -> dict[str, Any]:
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _misses(result: Result) -> list[str]:
    recipe = result.recipe
    if abs(result.got - recipe["ratio"]) <= CLOSE_ENOUGH:
        return []
    return [
        f"Asked to remove {recipe['ratio']:.1%} of {recipe['by']}, got {result.got:.1%}: in steps "
        f"of whole slices and multiples of {recipe['multiple']}, the order of the scores passes no "
        "nearer point."
    ]
