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

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .adapters import ADAPTERS
from .adapters.answers import axes_of
from .adapters.base import Adapter
from .cutting.shrink import shrunk
from .errors import ArtifactError, WeightsError
from .inputs.architectures import Architecture
from .inputs.checkpoints import fill
from .inputs.feed import InputSpec
from .inputs.lineage import Lineage, note_lineage_
from .measuring.provenance import versions
from .planning.plan import Plan
from .recovery.training.curve import learning_curve
from .recovery.training.history import CURVE, HISTORY, lines
from .result import Result
from .tracing.graph import trace
from .weights.files import read_masks, write_masks

FORMAT = 1
ARGUMENTS = {"img_size", "in_chans", "num_classes"}  # that a factory may be told
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}
WEIGHTS, PLAN, REPORT = "model.safetensors", "plan.json", "report.json"
MASKS = "masks.safetensors"
NEEDED, EXTRAS = {WEIGHTS, PLAN, REPORT}, {HISTORY, CURVE}
OPTIONAL = EXTRAS | {MASKS}


def save(result: Result, directory: str | Path) -> None:
    """Write an artifact: all of it, or nothing.

    Args:
        result: What to write.
        directory: Made if need be; an artifact that is there is replaced, and stays as it
            was if anything goes wrong.

    Raises:
        ArtifactError: The directory cannot be written, or holds something else.
    """
    plan = {
        "format": FORMAT,
        "architecture": asdict(result.architecture) if result.architecture else None,
        "adapter": result.recipe["adapter"],
        "plan": result.plan.to_json(),
    }
    kept = result.masks.kept if result.masks else {}
    _save(Path(directory), result.model, plan, result.report(), _records(result), kept)


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
    plan, kept = read_plan(Path(source)), masks_of(source, model)
    _save(Path(directory), model, plan, report, extras, kept)


def _save(
    directory: Path,
    model: nn.Module,
    plan: Mapping[str, Any],
    report: Mapping[str, Any],
    extras: Mapping[str, str],
    kept: Mapping[str, Tensor],
) -> None:
    with _replacing(directory) as partial:
        state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, partial / WEIGHTS)
        plan = {
            **plan,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "versions": versions(),
            "weights_sha256": _digest(partial / WEIGHTS),
        }
        if kept:
            write_masks(partial / MASKS, kept)
            plan["masks_sha256"] = _digest(partial / MASKS)
        _write(partial / PLAN, plan)
        for name, text in extras.items():
            (partial / name).write_text(text, "utf-8")
        files = {name: _digest(partial / name) for name in extras}
        report = {**report, "plan_sha256": _digest(partial / PLAN), "files": files}
        _write(partial / REPORT, {**report, "sha256": _digest_of(report)})


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
    example_input: Tensor | None = None,
) -> nn.Module:
    """Rebuild a saved model, in evaluation mode, on the CPU.

    The architecture is built anew, the plan replayed on it, and the weights loaded
    strictly; neither the original checkpoint nor the network is needed.

    Args:
        directory: Where `save` wrote it.
        model: The original architecture with any weights, for an artifact whose model was
            the caller's own; it is not modified.
        adapter: For such a model, if its adapter is not registered.
        example_input: For such a model, if it is not timm's.

    Raises:
        ArtifactError: The artifact is incomplete, corrupt or altered, or made for another
            architecture.
    """
    directory = Path(directory)
    data = read_plan(directory)
    try:
        plan, dtype = Plan.from_json(data["plan"]), DTYPES[data["dtype"]]
        large = model if model is not None else _architecture(data, directory).build()
        adapter = adapter or ADAPTERS.get(data["adapter"])
    except (KeyError, TypeError, AttributeError, ImportError) as error:
        raise ArtifactError(
            f"{directory / PLAN} is not readable ({type(error).__name__}: {error}); save it again."
        ) from error
    example = example_input if example_input is not None else InputSpec.of(large).example()
    specs = [spec for spec in axes_of(adapter, large) if spec.name in plan.kept]
    axes = trace(large, specs, adapter, example.to(next(large.parameters()).device))
    if {axis.name: axis.size for axis in axes} != dict(plan.sizes):
        raise ArtifactError(
            f"The plan in {directory} was made for another architecture than "
            f"{type(large).__name__} here; load it with the one it was made for."
        )
    small = shrunk(large, axes, plan, adapter).to(dtype)
    try:
        fill(small, load_file(directory / WEIGHTS), str(directory))
    except (WeightsError, SafetensorError) as error:
        raise ArtifactError(f"{directory / WEIGHTS} does not fit its plan: {error}") from error
    _masks(directory, data, small)
    if data["architecture"] is not None and model is None:
        origin = read_report(directory)["recipe"]["weights"]
        built = _architecture(data, directory)
        note_lineage_(small, Lineage(built, origin, data["adapter"], plan))
    return small.eval()


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
    return _masks(Path(directory), read_plan(Path(directory)), model)


def read_plan(directory: Path) -> dict[str, Any]:
    """Return the contents of plan.json, once all files have proved to be unaltered.

    Raises:
        ArtifactError: They have not.
    """
    report = read_report(directory)
    _verify(directory / PLAN, report.get("plan_sha256"))
    data = _read(directory / PLAN)
    _verify(directory / WEIGHTS, data.get("weights_sha256"))
    if "masks_sha256" in data:
        _check_there(directory, MASKS)
        _verify(directory / MASKS, data["masks_sha256"])
    if data.get("format") != FORMAT:
        raise ArtifactError(
            f"{directory} is an artifact of format {data.get('format')}; this prunekit reads "
            f"format {FORMAT}. Use the version it was saved with: {data.get('versions')}."
        )
    return data


def read_report(directory: Path) -> dict[str, Any]:
    """Return the contents of report.json.

    Raises:
        ArtifactError: There is no artifact, or its report is corrupt.
    """
    if not directory.is_dir():
        raise ArtifactError(
            f"There is no directory {str(directory)!r}; name one that prunekit wrote."
        )
    for name in (REPORT, PLAN, WEIGHTS):
        _check_there(directory, name)
    report = _read(directory / REPORT)
    if report.pop("sha256", None) != _digest_of(report):
        raise _altered(directory / REPORT)
    for name, digest in report.get("files", {}).items():
        _check_there(directory, name if name in EXTRAS else repr(name))
        _verify(directory / name, digest)
    return report


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Return what each epoch of fine-tuning brought; empty if there was none.

    Raises:
        ArtifactError: There is no artifact, or it is corrupt.
    """
    if HISTORY not in read_report(directory).get("files", {}):
        return []
    return [json.loads(line) for line in (directory / HISTORY).read_text("utf-8").splitlines()]


def check_writable(directory: str | Path) -> None:
    """Find out before the work whether its result can be saved.

    Raises:
        ArtifactError: It cannot.
    """
    target = Path(directory)
    _check_replaceable(target)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rmdir(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a directory to write to, which takes the target's place if all goes well."""
    check_writable(target)
    with _explained(target):
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp makes it private, safetensors what it writes
            for path in partial.glob("*.safetensors"):
                path.chmod(0o644)
            _swap(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _swap(new: Path, target: Path) -> None:
    """Put `new` in the target's place, and leave what was there in `new`'s."""
    if not target.exists():
        os.rename(new, target)
        return
    aside = target.with_name(f"{new.name}.old")
    os.rename(target, aside)
    try:
        os.rename(new, target)
    except BaseException:
        os.rename(aside, target)
        raise
    os.rename(aside, new)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"Cannot write to {str(target)!r} ({reason}); name a directory with room that you may "
            "write to. Nothing was changed."
        ) from error


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ArtifactError(f"{str(target)!r} is a file; name a directory.")
    found = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if found and not NEEDED <= found <= NEEDED | OPTIONAL:
        raise ArtifactError(
            f"{str(target)!r} holds something other than an artifact; name a new or an empty "
            "directory."
        )


def _architecture(data: Mapping[str, Any], directory: Path) -> Architecture:
    if data["architecture"] is None:
        raise ArtifactError(
            f"The model in {directory} was not built by prunekit; pass the original as "
            "load(..., model=...)."
        )
    architecture = Architecture(**data["architecture"])
    # timm's factory takes arguments that read files and fetch from hubs; ours need none of them.
    if architecture.card is None and set(architecture.args) - {
        "img_size",
        "in_chans",
        "num_classes",
    }:
        raise ArtifactError(
            f"The architecture in {directory} has arguments that prunekit never writes: "
            f"{', '.join(architecture.args)}. Do not trust it."
        )
    return architecture


def _masks(directory: Path, data: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    return read_masks(directory / MASKS, model) if "masks_sha256" in data else {}


def _check_there(directory: Path, name: str) -> None:
    if not (directory / name).is_file():
        raise ArtifactError(
            f"{str(directory)!r} is not a whole artifact: {name} is missing; save it again."
        )


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} is corrupt ({type(error).__name__}); save it again."
        ) from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} is corrupt (no JSON object); save it again.")
    return data


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(report: Mapping[str, Any]) -> str:
    # Through JSON and back, which is what a reader gets: keys become strings.
    plain = json.loads(json.dumps(report))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _verify(path: Path, digest: object) -> None:
    if _digest(path) != digest:
        raise _altered(path)


def _altered(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is not what was saved: its digest does not match. Save the artifact again, or "
        "fetch it from where it came."
    )
