"""prune: the straight line from a model to a smaller one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.base import Adapter
from .criteria import CRITERIA
from .criteria.base import SCOPES, Criterion, Scope
from .errors import BudgetError, CriterionError, DataError
from .inputs.data import Data, batches
from .inputs.subject import Subject, find_images, find_subject
from .measuring.accuracy import EVAL_BATCH, hits, percentages
from .measuring.counting import Stats, stats
from .measuring.latency import latencies
from .measuring.memory import peak_memory
from .measuring.provenance import device_name, versions
from .planning.budget import BYS, CLOSE_ENOUGH, Budget, By
from .planning.plan import Plan
from .planning.rounds import Schedule, ratios
from .plugin import configured
from .pruning.slices import Choices, Watch, take_step
from .pruning.weights import check_applies, mask
from .recovery.recipes import Recipe, settings_of
from .recovery.training import Epoch
from .recovery.training.setting import check_installed
from .registry import unknown
from .repairs import REPAIRS
from .repairs.base import Repair
from .result import Result, Round
from .shared import Shared
from .weights.granularity import Granularity
from .weights.masks import MaskPlan
from .weights.zeros import Sparsity

DEFAULT_RATIO = 0.5


def prune(
    model: nn.Module | str,
    criterion: str | Criterion = "dimap",
    ratio: float | None = None,
    *,
    granularity: str = "slice",
    by: By = "params",
    scope: Scope | None = None,
    repair: str | Repair = "none",
    axes: Sequence[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    floor: float = 0.1,
    multiple: int = 8,
    steps: int = 1,
    schedule: Schedule = "cubic",
    finetune: Recipe | None = None,
    adapter: Adapter | None = None,
    example_input: Tensor | None = None,
    weights: str = "auto",
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    calibration: int = 512,
    evaluate: bool = False,
    timed: bool = True,
    device: str = "auto",
    seed: int = 0,
    shared: Shared | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Result:
    """Make a physically smaller model.

    Args:
        model: An architecture name, or a model of your own; that one is never modified.
        criterion: A registered name, with options such as "magnitude:p=1", or a Criterion.
        ratio: The fraction of the whole model to remove, in (0, 1); half of it unless given.
        granularity: What leaves: a whole `slice`, which makes the model smaller; or a single
            `weight`, which becomes zero in a model of the same shape; or, as `n:m` such as
            `2:4`, all but the n best of every m consecutive inputs, whatever the ratio.
        by: What the ratio counts: `params`, `macs`, or `slices` of the chosen axes. Of single
            weights, those are all that become zero, all MACs that these imply, and the weights
            of the chosen matrices.
        scope: Where slices compete: within an `axis`, all axes of a `kind`, or the `model`;
            the criterion's own scope unless given.
        repair: What adjusts the weights that stay: a registered name, or a Repair.
        axes: Kinds of axes that may shrink; the adapter's default unless given. For single
            weights, roles of matrices; all but `aux` unless given.
        include: Globs on axis names; only these may shrink. All unless given.
        exclude: Globs on axis names that may not shrink.
        floor: The smallest fraction of an axis to keep. It and `multiple` are for slices only.
        multiple: Kept MLP and width sizes are multiples of this.
        steps: In how many rounds of scoring, cutting, repairing and training to get there.
            Criteria that look at weights or data then see the model as it has become.
        schedule: How much to remove in each: the same (`linear`), or most at first (`cubic`).
        finetune: How to train after every round, on training images; not at all unless given.
            If the recipe distils, the teacher is the model that came in.
        adapter: What knows the model; found among the registered ones unless given.
        example_input: One batch of inputs; needed for models that are not timm's.
        weights: For a name: `auto`, `pretrained`, `random` or a file.
        data: A named data set or an image folder; the zoo's own for a model of the zoo.
        data_dir: Where the full Fashion-MNIST lies.
        calibration: How many training images criterion and repair may see.
        evaluate: Also measure latency, memory and, where there is data, accuracy.
        timed: Whether that includes latency and memory.
        device: `auto`, `cpu` or `cuda`; a model of your own stays where it is on `auto`.
        seed: Seed of random weights and scores, calibration images, training and the parity
            input.
        shared: What other runs have found out already; see `Shared`. It changes no result.
        on_step: Called with the name of each step as it starts.
        on_epoch: Called after every epoch of training.

    Raises:
        PruneError: One of its children, in a sentence that says what to do; nothing has
            been modified or written then.
    """
    chosen = configure(criterion, seed)
    mending = configured(REPAIRS, repair)
    level = Granularity.parse(granularity)
    if level.masks:
        check_applies(level, chosen, mending, ratio, scope, steps, floor, multiple)
    ratio = DEFAULT_RATIO if ratio is None else ratio
    by = _precheck(ratio, by, scope, calibration)
    targets = ratios(ratio, steps, schedule)
    if finetune is not None:
        check_installed()
    informed = chosen.needs != "nothing" or mending.needs != "nothing"
    shared = shared or Shared()
    watch = Watch(on_step, shared)
    with watch("build"):
        subject = find_subject(model, weights, adapter, example_input, device, seed, shared)
        wanted = evaluate or informed or finetune is not None
        images = find_images(subject, data, data_dir, wanted, shared)
    choices = Choices(
        criterion=chosen,
        scope=scope or (level.masks and chosen.weight_scope) or chosen.scope,
        repair=mending,
        recipe=finetune,
        kinds=tuple(axes or (() if level.masks else subject.adapter.default_kinds)),
        include=tuple(include),
        exclude=tuple(exclude),
        by=by,
        floor=floor,
        multiple=multiple,
        data=images,
        calibration=calibration,
        seed=seed,
    )
    if level.masks:
        outcome = _masked(subject, ratio, level, choices, watch, on_epoch)
    else:
        outcome = _cut(subject, targets, choices, watch, shared, on_epoch)
    small = outcome.model
    with watch("measure"):
        before, after = _measured(subject, small, shared, timed=evaluate and timed)
    correct = None
    if evaluate and images:
        with watch("evaluate"):
            found = _tested(subject, small, shared, images)
        before, after = _with_accuracy(before, found[0]), _with_accuracy(after, found[1])
        correct = found[0][:, 0], found[1][:, 0]
    recipe = {
        **subject.origin(),
        "criterion": chosen.name,
        "options": dict(chosen.options),
        "granularity": level.text,
        "scope": None if level.pattern else choices.scope,
        "repair": mending.name,
        "repair_options": dict(mending.options),
        "axes": list(choices.kinds) or list(dict.fromkeys(outcome.kinds.values())),
        "include": list(include),
        "exclude": list(exclude),
        "ratio": None if level.pattern else ratio,
        "by": by,
        "floor": None if level.masks else floor,
        "multiple": None if level.masks else multiple,
        "steps": steps,
        "schedule": schedule if steps > 1 else None,
        "finetune": settings_of(finetune) if finetune else None,
        "data": images.name if images else None,
        "calibration": calibration if informed else None,
        "seed": seed,
        **_setting(small),
    }
    result = Result(
        small,
        outcome.plan,
        before,
        after,
        outcome.rounds,
        recipe,
        watch.seconds,
        warnings=(*subject.warnings, *outcome.warnings),
        architecture=subject.architecture,
        kinds=outcome.kinds,
        scores=outcome.scores,
        correct=correct,
        masks=outcome.masks,
        sparsity=outcome.sparsity,
    )
    return replace(result, warnings=(*result.warnings, *_misses(result)))


@dataclass(frozen=True)
class _Outcome:
    """The part of a result that cutting and masking bring, each in its own way."""

    model: nn.Module
    plan: Plan
    rounds: tuple[Round, ...]
    kinds: Mapping[str, str]
    scores: Mapping[str, Tensor]
    masks: MaskPlan | None = None
    sparsity: Sparsity | None = None
    warnings: tuple[str, ...] = ()


def _cut(
    subject: Subject,
    targets: Sequence[float],
    choices: Choices,
    watch: Watch,
    shared: Shared,
    on_epoch: Callable[[Epoch], None],
) -> _Outcome:
    """Cut slices out, in as many steps as there are targets."""
    step, rounds = None, []
    for target in targets:
        step = take_step(subject, target, choices, watch, step, shared, on_epoch)
        rounds.append(step.round)
    assert step is not None, "there is at least one target"
    kinds = {axis.name: axis.kind for axis in step.cut.axes}
    return _Outcome(step.model, step.cut.plan, tuple(rounds), kinds, step.scores)


def _masked(
    subject: Subject,
    ratio: float,
    level: Granularity,
    choices: Choices,
    watch: Watch,
    on_epoch: Callable[[Epoch], None],
) -> _Outcome:
    """Make single weights zero; their scores, as many as there are weights, are let go."""
    done = mask(subject, ratio, level, choices, watch, on_epoch)
    return _Outcome(
        done.model,
        done.plan,
        (done.round,),
        done.masks.kinds,
        {},
        done.masks,
        done.sparsity,
        done.warnings,
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
    found = configured(CRITERIA, criterion)
    if "seed" in found.defaults and "seed" not in found.options:
        found = found.configure(seed=seed)
    return found


def _precheck(ratio: float, by: str, scope: str | None, calibration: int) -> By:
    """Refuse what cannot be right before anything slow happens."""
    if by not in BYS:
        raise BudgetError(unknown("budget", by, BYS))
    if scope is not None and scope not in SCOPES:
        raise CriterionError(unknown("scope", scope, SCOPES))
    if calibration < 1:
        raise DataError(f"Asked for {calibration} calibration images; expected 1 or more.")
    known = next(known for known in BYS if known == by)
    Budget(ratio, known, total=0)  # checks the ratio
    return known


def _measured(
    subject: Subject, small: nn.Module, shared: Shared, *, timed: bool
) -> tuple[Stats, Stats]:
    """Return what the large and the small model cost; both are timed side by side."""
    dense, example = subject.model, subject.example
    before = shared.once("dense size", dense, lambda: stats(dense, example))
    after = stats(small, example)
    if not timed:
        return before, after
    times = latencies((dense, small), example)
    peak = shared.once("dense memory", dense, lambda: peak_memory(dense, example))
    return (
        replace(before, latency_ms=times[0], memory_bytes=peak),
        replace(after, latency_ms=times[1], memory_bytes=peak_memory(small, example)),
    )


def _tested(
    subject: Subject, small: nn.Module, shared: Shared, images: Data
) -> tuple[Tensor, Tensor]:
    """Return what the large and the small model make of all test images, see `hits`."""

    def found(model: nn.Module) -> Tensor:
        return hits(model, batches(images.test, EVAL_BATCH))

    key = (subject.model, images)
    return shared.once("dense hits", key, lambda: found(subject.model)), found(small)


def _with_accuracy(side: Stats, found: Tensor) -> Stats:
    top1, top5 = percentages(found)
    return replace(side, top1=top1, top5=top5, images=len(found))


def _setting(model: nn.Module) -> dict[str, Any]:
    return {
        "device": device_name(next(model.parameters()).device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def _misses(result: Result) -> list[str]:
    recipe = result.recipe
    if result.masks is not None:  # these are met to the last weight
        return []
    if abs(result.got - recipe["ratio"]) <= CLOSE_ENOUGH:
        return []
    return [
        f"Asked to remove {recipe['ratio']:.1%} of {recipe['by']}, got {result.got:.1%}: in steps "
        f"of whole slices and multiples of {recipe['multiple']}, the order of the scores passes no "
        "nearer point."
    ]
