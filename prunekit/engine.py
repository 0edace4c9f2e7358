"""prune: the straight line from a model to a smaller one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Unpack

from torch import nn

from .branch import BLOCK
from .criteria.base import Criterion
from .errors import PruneError
from .inputs.finite import check_finite
from .keywords import with_keywords
from .naming import some
from .planning.budget import CLOSE_ENOUGH
from .pruning.aiming import aimed
from .pruning.closing import CLOSE
from .pruning.further import since_the_start
from .pruning.job import Job, Outcome, prepare, proved
from .pruning.sides import Sides, examine, setting
from .pruning.slices import prune_slices
from .pruning.watch import Watch
from .pruning.weights import prune_weights
from .recovery.training import Epoch
from .request import Options, Request
from .result import Result, Timing
from .reuse import reopened
from .shared import Shared


@with_keywords(Options, Request)
def prune(
    model: nn.Module | str,
    criterion: str | Criterion = "dimap",
    ratio: float | None = None,
    *,
    shared: Shared | None = None,
    on_step: Callable[[str], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    **options: Unpack[Options],
) -> Result:
    """Make a physically smaller model.

    Args:
        model: An architecture name, the directory of a saved model, or a model of your own; that
            one is never modified.
        criterion: A registered name, with options such as "magnitude:p=1", or a Criterion.
        ratio: The fraction of the whole model to remove, or of the part that `at` names, in
            (0, 1); half of it unless given.
        granularity: What leaves: a whole `slice`, which makes the model smaller; or a single
            `weight`, which becomes zero in a model of the same shape; or, as `n:m` such as
            `2:4`, all but the n best of every m consecutive inputs, whatever the ratio.
        by: What the ratio counts: `params`, `macs`, `latency`, `memory`, or `slices` of the chosen
            axes. Of single weights, those are all that become zero, all MACs that these imply, and
            the weights of the chosen matrices. `latency` is measured, on the model's device: see
            docs/latency.md. `memory` is the peak of a forward pass: see docs/memory.md.
        also: Further fractions to remove at least, such as {"params": 0.3}: of `params`, `macs` or
            `memory`.
        target_ms: Milliseconds of a forward pass to come down to, instead of a ratio by latency.
        scope: Where slices compete: within an `axis`, all axes of a `kind`, or the `model`;
            the criterion's own scope unless given. Or how axes share the budget instead:
            `sensitivity:FILE` by what was measured of each alone, `search` by trying plans out.
        trials: How many plans a search may judge; 24 unless given.
        repair: What adjusts what stays: a registered name, a Repair, or several of them.
        axes: Kinds of axes that may shrink; the adapter's default unless given. For single
            weights, roles of matrices; all but `aux` unless given.
        include: Globs on axis names; only these may shrink. All unless given.
        exclude: Globs on axis names that may not shrink.
        at: The name of a part, such as "backbone", if only that is to be pruned; the adapter is
            the part's then, and the ratio counts the part. Parity is checked on what the part
            returns, and on what the whole model does.
        floor: The smallest fraction of an axis to keep. It and `multiple` are for slices only.
        multiple: Kept MLP and width sizes are multiples of this.
        uniform: All blocks of a stage keep equally many slices of their axes of a kind, so that
            the arguments of a factory can say what was kept; see `export`.
        steps: In how many rounds of scoring, cutting, repairing and training to get there.
            Criteria that look at weights or data then see the model as it has become.
        schedule: How much to remove in each: the same (`linear`), or most at first (`cubic`).
        finetune: How to train after every round, on training images; not at all unless given.
            If the recipe distils, the teacher is the model that came in.
        adapter: What knows the model, or its name; found among the registered ones unless given.
        example_input: One batch of inputs; needed for models that are not timm's. A tensor, or a
            tuple of positional arguments, or a dictionary of named ones; a list is one argument, as
            torchvision's detectors take it.
        img_size: Height and width of images, or one number for both; the architecture's own
            unless given. In_chans and num_classes likewise: how a named architecture is built.
        in_chans: Channels of images.
        num_classes: Outputs of the classifier.
        weights: For a name: `auto`, `pretrained`, `random` or a file.
        data: A named data set or an image folder; the zoo's own for a model of the zoo. Or images
            of your own, ready for the model: a Dataset, a DataLoader, batches of tensors or of
            (images, labels), or a pair of these, (calibration, test). Images need labels only
            where something looks at labels.
        data_dir: Where the full Fashion-MNIST lies.
        calibration: How many training images criterion and repair may see.
        evaluate: Also measure accuracy where there is data, and unless `timed` says otherwise
            latency and memory.
        timed: Whether to measure latency and memory; as `evaluate` unless given.
        latency_batch: Images in a forward pass, if latency is what counts.
        latency_dtype: The precision of it: float32, bfloat16 or float16.
        compile: Whether torch.compile makes the models that are timed fast first.
        device: `auto`, `cpu` or `cuda`; a model of your own stays where it is on `auto`.
        seed: Seed of random weights and scores, calibration images, training and the parity
            input.
        shared: What other runs have found out already; see `Shared`. It changes no result.
        on_step: Called with the name of each step as it starts.
        on_epoch: Called after every epoch of training.

    Raises:
        PruneError: One of its children, in a sentence that says what to do; nothing has
            been modified or written then. If only a late round failed, its `finished` is the
            Result of those before.
    """
    request = Request(model=model, criterion=criterion, ratio=ratio, **options)
    shared = shared or Shared(alone=True)
    watch = Watch(on_step, shared)
    with watch("build"):
        job = prepare(reopened(request), shared, watch, on_epoch)
        check_finite(job.subject.model, "The model")
    job = proved(aimed(job))
    way = prune_weights if request.level.masks else prune_slices
    try:
        outcome = way(job)
    except PruneError as error:
        if isinstance(error.finished, Outcome):
            error.finished = _result(job, error.finished, examine(job, error.finished.model))
        raise
    check_finite(outcome.model, "The pruned model")
    return _result(job, outcome, examine(job, outcome.model))


def _result(job: Job, outcome: Outcome, sides: Sides) -> Result:
    """Put together what was asked for, what was done, and what it is worth."""
    outcome = since_the_start(job.subject, outcome)
    subject, request = job.subject, job.request
    recipe = {
        **subject.origin(),
        **request.recipe(),
        "axes": list(job.kinds) or list(dict.fromkeys(outcome.kinds.values())),
        "data": job.data.name if job.data else None,
        "calibration": job.calibration if request.informed else None,
        **setting(outcome.model),
    }
    result = Result(
        outcome.model,
        outcome.plan,
        sides.before,
        sides.after,
        outcome.rounds,
        recipe,
        job.watch.seconds,
        part=sides.part,
        warnings=(*subject.warnings, *outcome.warnings, *sides.warnings),
        architecture=subject.architecture,
        kinds=outcome.kinds,
        scores=outcome.scores,
        correct=sides.correct,
        masks=outcome.masks,
        sparsity=outcome.sparsity,
        example=subject.example,
        plain=subject.plain,
    )
    return replace(
        result, warnings=(*result.warnings, *_misses(result), *_unrepaired(request, result))
    )


def _unrepaired(request: Request, result: Result) -> Iterator[str]:
    """Say what the repairs could not do."""
    last = result.rounds[-1]
    reasons: dict[str, list[str]] = {}
    for layer, reason in last.unrepaired.items():
        reasons.setdefault(reason, []).append(layer)
    for reason, layers in reasons.items():
        yield f"Not repaired: {some(layers)}, since {reason}."
    for repair in request.mending:
        if repair.needs == "norms" and not last.recalibrated:
            yield (
                f"Repair {repair.name!r} had nothing to do: the model has no BatchNorm with "
                "running statistics."
            )


def _misses(result: Result) -> list[str]:
    recipe: Any = result.recipe
    if result.masks is not None:  # these are met to the last weight
        return []
    timing = result.rounds[-1].timing
    if timing is not None:
        return [*_too_large(result), *_missed(timing)]
    if said := _too_large(result):
        return said
    at_least = recipe["by"] == "memory" or recipe.get("also")  # or another budget asked for more
    if at_least and result.got >= recipe["ratio"] - CLOSE_ENOUGH:
        return []
    if abs(result.got - recipe["ratio"]) <= CLOSE_ENOUGH:
        return []
    if set(result.kinds.values()) == {BLOCK}:
        return [
            f"Asked to remove {recipe['ratio']:.1%} of {recipe['by']}, got {result.got:.1%}: a "
            "branch leaves whole or not at all; let other kinds of axes shrink too to come nearer."
        ]
    return [
        f"Asked to remove {recipe['ratio']:.1%} of {recipe['by']}, got {result.got:.1%}: in steps "
        f"of whole slices and multiples of {recipe['multiple']}, the order of the scores passes no "
        "nearer point."
    ]


def _too_large(result: Result) -> list[str]:
    """Say if a model holds more than was predicted, and so more than was asked for."""
    held = result.rounds[-1].footprint
    if held is None or held.removed >= min(held.asked, held.predicted) - CLOSE_ENOUGH:
        return []
    return [
        f"Asked to remove {held.asked:.1%} of the peak memory, predicted {held.predicted:.1%}, got "
        f"{held.removed:.1%}: the small model makes tensors that the large one does not; ask for "
        "more to get there."
    ]


def _missed(timing: Timing) -> Iterator[str]:
    """Say why a latency is not what was asked for."""
    saving = timing.saving
    asked = saving.dense.median * (1 - timing.asked)
    measured = saving.dense.median * (1 - saving.removed)
    if timing.miss <= CLOSE:
        return
    yield (
        f"Asked for {asked:.3g} ms, measured {measured:.3g} ms on the best of {timing.tries} that "
        f"were built; half of the passes saved between {saving.low:.1%} and "
        f"{saving.high:.1%}. Where that is wide, the machine is busy; else no sizes that axes may "
        "have come nearer, or another budget asked for more."
    )
