"""save, load: a result as a directory of safetensors and JSON, never a pickle.

    model.safetensors   the small model's weights
    plan.json           how to build the large model, and what stays of it
    report.json         what was measured
    masks.safetensors   if single weights were masked: which stay, a bit each
    history.jsonl       if it was fine-tuned: what each epoch brought
    learning_curve.svg  and a picture of that

The plan holds the digests of the weights and the masks, and the report those of the plan, of the
last two files and its own, so that none can change alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from .adapters import ADAPTERS
from .adapters.answers import axes_of, seeing
from .adapters.base import Adapter
from .arguments import Inputs, mapped, plain
from .axis import Axis
from .cutting.shrink import shrunk
from .errors import AdapterError, ArtifactError, WeightsError
from .files.plan import PlanFile
from .files.replacing import replacing, settled
from .files.report import Report
from .files.stored import (
    CURVE,
    FORMAT,
    HISTORY,
    MASKS,
    PLAN,
    REPORT,
    WEIGHTS,
    Stored,
    digest,
    digest_of,
    is_artifact,
    opened,
    write_json,
)
from .files.tensors import shapes
from .inputs.architectures import Architecture
from .inputs.checkpoints import fill
from .inputs.feed import InputSpec
from .inputs.lineage import Lineage, note_lineage_
from .inputs.named import build_named, explained
from .measuring.provenance import versions
from .planning.plan import Plan
from .recovery.training.curve import learning_curve
from .recovery.training.history import epochs, lines
from .result import Result
from .tracing.copies import copy_with
from .tracing.graph import trace
from .tracing.part import inputs_of, within
from .tracing.plain_layers import made_plain, named_plain
from .weights.files import masks_in, write_masks

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


@dataclass(frozen=True)
class Artifact:
    """A saved model, rebuilt.

    Attributes:
        model: The small model, in evaluation mode, on the CPU.
        plan: What stayed of the large one; without any axes if single weights were masked.
        axes: Those of the plan, traced on the large model with random weights: the coordinates
            of the plan, in which a later one is added to it (`planning.rounds.combine`).
        architecture: How to build the large model; None if the caller built it.
        adapter: What knows it.
        masks: Parameter name to which of its values stay; empty if no weights were masked.
        report: What was measured.
        weights_sha256: Digest of the small model's file.
        plain: Names of layers that were made plain before anything was cut.
    """

    model: nn.Module
    plan: Plan
    axes: Sequence[Axis]
    architecture: Architecture | None
    adapter: Adapter
    masks: Mapping[str, Tensor]
    report: Report
    weights_sha256: str
    plain: tuple[str, ...] = ()


def save(result: Result, directory: str | Path) -> None:
    """Write an artifact: all of it, or nothing.

    Args:
        result: What to write.
        directory: Made if need be; an artifact that is there is replaced, and stays as it
            was if anything goes wrong. Of a link, what it leads to.

    Raises:
        ArtifactError: The directory cannot be written, or holds something else.
    """
    plan = {
        "format": FORMAT,
        "architecture": asdict(result.architecture) if result.architecture else None,
        "adapter": result.recipe["adapter"],
        "plan": result.plan.to_json(),
        **({"at": at} if (at := result.recipe.get("at")) else {}),
        **({"plain": list(result.plain)} if result.plain else {}),
    }
    kept = result.masks.kept if result.masks else {}
    _save(directory, result.model, plan, result.report(), _records(result), kept)


def save_tuned(
    source: str | Path,
    directory: str | Path,
    model: nn.Module,
    report: Mapping[str, Any],
    extras: Mapping[str, str],
) -> None:
    """Write an artifact with plan and masks of another one, but weights and a report of its own.

    Args:
        source: The other artifact.
        directory: Where to; it may be the same.
        model: The source's model, with other weights.
        report: What is now known about it.
        extras: Contents of the optional files, by their names.

    Raises:
        ArtifactError: The source is corrupt, or the directory cannot be written.
    """
    with opened(source) as stored:
        plan = stored.plan()
        kept = _masks(stored, plan, model)
    _save(directory, model, plan, report, extras, kept)


def _save(
    directory: str | Path,
    model: nn.Module,
    plan: Mapping[str, Any],
    report: Mapping[str, Any],
    extras: Mapping[str, str],
    kept: Mapping[str, Tensor],
) -> None:
    with replacing(check_writable(directory)) as partial:
        state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS)
        plan = {
            **plan,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "versions": versions(),
            "weights_sha256": digest(partial / WEIGHTS),
        }
        if kept:
            write_masks(partial / MASKS, kept)
            plan["masks_sha256"] = digest(partial / MASKS)
        write_json(partial / PLAN, plan)
        for name, text in extras.items():
            (partial / name).write_text(text, "utf-8")
        files = {name: digest(partial / name) for name in extras}
        report = {**report, "plan_sha256": digest(partial / PLAN), "files": files}
        write_json(partial / REPORT, {**report, "sha256": digest_of(report)})
        read_plan(partial)  # what could not be read again must not take the place of what can


def _records(result: Result) -> dict[str, str]:
    """Return the history of all rounds that were trained after, and a picture of the last."""
    trained = [one.trained for one in result.rounds if one.trained]
    if not trained:
        return {}
    last = trained[-1]
    title = f"{result.recipe['arch']}, after the last step"
    return {
        HISTORY: "".join(lines(one.history) for one in trained),
        CURVE: learning_curve(last.history, last.val_top1_before, last.best_epoch, title),
    }


def load(
    directory: str | Path,
    *,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Inputs | None = None,
) -> nn.Module:
    """Rebuild a saved model, in evaluation mode, on the CPU.

    The architecture is built anew, the plan replayed on it, and the weights loaded
    strictly; neither the original checkpoint nor the network is needed.

    Args:
        directory: Where `save` wrote it, or a folder that was exported for the Hub; or
            "hf-hub:user/name", which is fetched from there.
        model: The original architecture with any weights, for an artifact whose model was
            the caller's own; it is not modified.
        adapter: For such a model, if its adapter is not registered.
        example_input: For such a model, if it is not timm's.

    Raises:
        ArtifactError: The artifact is incomplete, corrupt or altered, or made for another
            architecture.
    """
    return open_artifact(directory, model=model, adapter=adapter, example_input=example_input).model


def open_artifact(
    directory: str | Path,
    *,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Inputs | None = None,
) -> Artifact:
    """Do what `load` does, and return what is known about the model besides.

    Raises:
        ArtifactError: As `load` says.
    """
    with opened(directory) as stored:
        data = stored.plan()
        where = str(stored.directory)
        architecture = Architecture(**data["architecture"]) if data["architecture"] else None
        plan = Plan.from_json(data["plan"])
        names = tuple(data.get("plain", ()))
        large = model if model is not None else _large(architecture, stored, plan, names)
        with explained(where):
            large = _plain(large, names, where)
            example = _example(large, example_input)
            adapter = _seen(
                adapter or ADAPTERS.get(data["adapter"]), data.get("at"), large, example
            )
            axes = _traced(large, plan, adapter, example, where)
            small = shrunk(large, axes, plan, adapter).to(DTYPES[data["dtype"]])
        _fill(small, stored)
        if architecture is not None and model is None:
            origin = stored.report["recipe"]["weights"]
            part = data.get("at", "")
            known = Lineage(architecture, origin, data["adapter"], plan, part, names)
            note_lineage_(small, known)
        return Artifact(
            model=small.eval(),
            plan=plan,
            axes=axes,
            architecture=architecture,
            adapter=adapter,
            masks=_masks(stored, data, small),
            report=stored.report,
            plain=names,
            weights_sha256=data["weights_sha256"],
        )


def masks_of(directory: str | Path, model: nn.Module) -> dict[str, Tensor]:
    """Return which single weights of a saved model stay.

    Args:
        directory: The artifact.
        model: What `load` made of it, or that with other weights; its zeros are checked.

    Returns:
        Parameter name to a bool mask of its shape, on CPU; empty if no weights were masked.

    Raises:
        ArtifactError: The artifact is corrupt, or the model has other zeros.
    """
    with opened(directory) as stored:
        return _masks(stored, stored.plan(), model)


def read_plan(directory: str | Path) -> PlanFile:
    """Return the contents of plan.json, once all files have proved to be unaltered.

    Raises:
        ArtifactError: They have not.
    """
    with opened(directory) as stored:
        return stored.plan()


def read_report(directory: str | Path) -> Report:
    """Return the contents of report.json.

    Raises:
        ArtifactError: There is no artifact, or its report is corrupt.
    """
    with opened(directory) as stored:
        return stored.report


def read_history(directory: str | Path) -> list[dict[str, Any]]:
    """Return what each epoch of fine-tuning brought; empty if there was none.

    Raises:
        ArtifactError: There is no artifact, or it is corrupt.
    """
    with opened(directory) as stored:
        found = epochs(stored.history(), str(stored.directory / HISTORY))
    return [asdict(epoch) for epoch in found]


def check_writable(directory: str | Path) -> Path:
    """Find out before the work whether its result can be saved.

    Returns:
        Where it will be: absolute, with all links followed.

    Raises:
        ArtifactError: It cannot.
    """
    return settled(directory, is_artifact)


def _large(
    architecture: Architecture | None, stored: Stored, plan: Plan, plain: tuple[str, ...]
) -> nn.Module:
    if architecture is None:
        raise ArtifactError(
            f"The model in {stored.directory} was not built by prunekit; pass the original "
            "as model to load() in Python."
        )
    small = shapes(stored.files.file(WEIGHTS), str(stored.directory / WEIGHTS))
    shallower = any(not kept for kept in plan.kept.values())
    where = str(stored.directory)
    return build_named(architecture, small, where, shallower=shallower, plain=plain)


def _plain(large: nn.Module, names: tuple[str, ...], where: str) -> nn.Module:
    """Return a model with the layers plain that were when it was saved."""
    if not names:
        return large
    large = copy_with(large, lambda _, tensor: tensor).eval()
    return made_plain(large, named_plain(large, names, where))


def _example(large: nn.Module, given: Inputs | None) -> Inputs:
    """Return a batch of inputs, where the model is."""
    example = InputSpec.of(large).example() if given is None else plain(given)
    device = next(large.parameters()).device
    return mapped(lambda tensor: tensor.to(device), example)


def _seen(adapter: Adapter, part: str | None, large: nn.Module, example: Inputs) -> Adapter:
    """Let an adapter look at the model, or at the part that was pruned."""
    if part is None:
        return seeing(adapter, large, example)
    return within(adapter, part, large, inputs_of(part, large, example))


def _traced(
    large: nn.Module, plan: Plan, adapter: Adapter, example: Inputs, where: str
) -> list[Axis]:
    """Return the axes of a plan; they must be those that the model has."""
    another = ArtifactError(
        f"The plan in {where} was made for another architecture than {type(large).__name__} here; "
        "load it with the one it was made for."
    )
    try:
        specs = [spec for spec in axes_of(adapter, large) if spec.name in plan.kept]
    except AdapterError as error:
        if not adapter.guesses:  # one that knows the family says what is wrong
            raise
        raise another from error  # whatever was pruned had axes
    axes = trace(large, specs, adapter, example)
    if {axis.name: axis.size for axis in axes} != dict(plan.sizes):
        raise another
    return axes


def _fill(small: nn.Module, stored: Stored) -> None:
    """Load the weights, which must have the names, shapes and types of the small model's."""
    path = stored.directory / WEIGHTS
    try:
        tensors = load_tensors(stored.content(WEIGHTS))
        own = small.state_dict()
        for name, tensor in tensors.items():
            if name in own and own[name].dtype != tensor.dtype:
                raise WeightsError(f"{name} is {tensor.dtype}, expected {own[name].dtype}.")
        fill(small, tensors, str(stored.directory))
    except (WeightsError, SafetensorError) as error:
        raise ArtifactError(f"{path} does not fit its plan: {error}") from error


def _masks(stored: Stored, data: PlanFile, model: nn.Module) -> dict[str, Tensor]:
    if "masks_sha256" not in data:
        return {}
    return masks_in(stored.content(MASKS), stored.directory / MASKS, model)
