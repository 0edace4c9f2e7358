"""export: write a pruned model to files that run elsewhere, and prove that they do the same."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from ..adapters.base import Adapter
from ..arguments import Inputs
from ..errors import ExportError
from ..files.hub import PREFIX
from ..files.replacing import replacing, settled
from ..inputs.data import Data, batches
from ..measuring.accuracy import EVAL_BATCH, accuracy
from ..measuring.latency import latencies
from ..provision import images_for
from ..registry import unknown
from ..result import Result
from . import hub_folder, int8, onnx_file, pt2, timm_folder
from .another_size import at_another_size
from .exported import RECORD, Exported, Precision, Timing, To, is_export, origin_of, sizes_in
from .program import Program, program_of
from .proof import Agreement, agreement, tells_apart
from .source import Source, source_of

BATCHES = (1, 3)  # that a file is proved at, if it takes any number of images
CALIBRATION = 128  # images that int8's ranges are found on
PACKAGES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "hub-folder": ("jinja2",)}


def export(
    saved: Result | str | Path,
    to: To,
    out: str | Path | None = None,
    *,
    precision: Precision = "fp32",
    quantize: str | None = None,
    dynamic_size: bool = False,
    data: Any = None,
    data_dir: str | Path | None = None,
    calibration: int = CALIBRATION,
    timed: bool = True,
    evaluate: bool = True,
    model: nn.Module | None = None,
    adapter: Adapter | None = None,
    example_input: Inputs | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a pruned model to a directory, in a form that runs without prunekit.

    Its own runtime runs what was written, and the outputs are compared with the pruned model's, at
    two batch sizes where it takes any number of images. What differs by more than rounding is
    not saved.

    Args:
        saved: A result, or the directory of an artifact; it stays as it is.
        to: `onnx`: model.onnx, for onnxruntime and others. `torch-export`: model.pt2, which torch
            loads alone. `timm`: a folder for `timm.create_model("local-dir:...",
            pretrained=True)`, if timm's arguments can say the plan. `hub-folder`: the artifact
            with a model card, which `load` reads from a folder or from the Hub.
        out: The directory to write; SAVED-TO unless given. One that an export wrote before is
            replaced.
        precision: Of an ONNX file: `fp32`, which is the model's own precision, or `fp16`.
        quantize: `int8` quantises an ONNX file on calibration images.
        dynamic_size: Let the file of `onnx` or `torch-export` take images of any height and width
            that the model takes; it is proved at two sizes.
        data: For `quantize`, and to evaluate what was quantised: as for `prune`; what the report
            names unless given.
        data_dir: Where the full Fashion-MNIST lies.
        calibration: How many images the ranges of `int8` are found on.
        timed: Measure the latency of an ONNX file beside the dense model's, in onnxruntime.
        evaluate: Measure what `quantize` costs on test images, where there are any.
        model: As for `load`, if the model was the caller's own.
        adapter: As for `load`.
        example_input: One batch of inputs, if the model is not timm's.
        on_step: Called with the name of each step as it starts.

    Returns:
        What was written, and what was measured on it.

    Raises:
        ExportError: The model cannot be exported so, or what was written computes something else.
        ArtifactError: The artifact is corrupt, or `out` cannot be written.
        DataError: There are no images to calibrate on.
    """
    _check(to, precision, quantize, dynamic_size, calibration, out, saved)
    place = _place(saved, out or f"{Path(str(saved)).resolve()}-{to}")
    on_step("load")
    source = source_of(saved, model=model, adapter=adapter, example_input=example_input)
    images = _images(source, saved, data, data_dir) if quantize else None
    sizes = (source, at_another_size(source)) if dynamic_size else (source,)
    with replacing(place) as partial:
        on_step("export")
        program = _write(sizes, to, partial, half=precision == "fp16")
        on_step("prove")
        proofs = _proved(sizes, to, partial, program, half=precision == "fp16")
        top1: dict[str, float] = {}
        if images is not None:
            top1 = _quantized(partial, images, calibration, on_step, evaluate=evaluate)
        timings = _timed(sizes, partial, program, on_step) if timed and to == "onnx" else {}
        exported = Exported(
            to=to,
            directory=place,
            files=sizes_in(partial),
            arch=source.report["recipe"]["arch"],
            precision="float16" if precision == "fp16" else source.dtype,
            quantized=quantize,
            proofs=proofs,
            dynamic_size=dynamic_size,
            fixed_batch=program.why_not if program and not program.dynamic else None,
            latency_ms=timings,
            top1=top1,
            origin=origin_of(source),
            warnings=tuple(_warnings(source, images, evaluate=evaluate)),
        )
        exported.write(partial / RECORD)
    return exported


def _warnings(source: Source, images: Data | None, *, evaluate: bool) -> Iterator[str]:
    if source.takes(max(BATCHES)) and not tells_apart(source.model, source.batch(max(BATCHES))):
        yield (
            "The pruned model returns the same for different inputs, so that comparing outputs "
            "proves little; check its weights."
        )
    if evaluate and images is not None and (images.test is None or images.problem):
        why = images.problem or f"{images.name} has no test images."
        yield f"Did not measure what int8 costs: {why}"


def _place(saved: Result | str | Path, out: str | Path) -> Path:
    """Find out before the work where the export goes.

    Raises:
        ExportError: That is in the artifact.
        ArtifactError: It cannot be written.
    """
    if isinstance(saved, str | Path) and Path(out).resolve().is_relative_to(Path(saved).resolve()):
        raise ExportError(
            f"{str(out)!r} lies in the artifact {str(saved)!r}, which an export leaves as it is; "
            "name a directory beside it."
        )
    return settled(out, is_export)


def _check(
    to: str,
    precision: str,
    quantize: str | None,
    dynamic_size: bool,
    calibration: int,
    out: str | Path | None,
    saved: object,
) -> None:
    """Refuse what can be refused without looking at the model.

    Raises:
        ExportError: It cannot be done.
    """
    for noun, given, known in (
        ("target", to, get_args(To)),
        ("precision", precision, get_args(Precision)),
    ):
        if given not in known:
            raise ExportError(unknown(noun, given, list(known)))
    if quantize not in (None, "int8"):
        raise ExportError(f"quantize is {quantize!r}; expected int8, or leave it out.")
    if to != "onnx" and (precision != "fp32" or quantize):
        raise ExportError(
            f"precision and quantize are for onnx; got them for {to}. Leave them out."
        )
    if dynamic_size and quantize:
        raise ExportError(
            "dynamic_size and int8 exclude each other, since int8's ranges are found on images of "
            "one size; choose one of them."
        )
    if dynamic_size and to not in ("onnx", "torch-export"):
        raise ExportError(
            f"dynamic_size is for onnx and torch-export; got it for {to}. Leave it out."
        )
    if precision != "fp32" and quantize:
        raise ExportError("fp16 and int8 exclude each other; choose one of them.")
    if calibration < 1:
        raise ExportError(f"calibration is {calibration}; expected 1 image or more.")
    if out is None and (not isinstance(saved, str | Path) or str(saved).startswith(PREFIX)):
        raise ExportError(
            "There is no directory that the export could be named after; pass out, or --out."
        )
    for name in PACKAGES.get(to, ()):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"Exporting to {to} needs {name}, which cannot be imported ({error}); run "
                "pip install 'prunekit[export]'."
            ) from error


def _write(sizes: Sequence[Source], to: To, place: Path, *, half: bool) -> Program | None:
    """Write the files; return the program they are of, if they are.

    Of several sizes of images the last is traced, so that the proof at the model's own shows
    whether one was kept.
    """
    source = sizes[-1]
    if to == "timm":
        timm_folder.write(source, place)
        return None
    if to == "hub-folder":
        hub_folder.write(source, place)
        return None
    program = program_of(source, any_size=len(sizes) > 1)
    if to == "onnx":
        onnx_file.write(program, place, origin_of(source), half=half)
    else:
        if len(sizes) > 1:
            pt2.check_takes(program, sizes[0])
        pt2.write(program, place)
    return program


def _proved(
    sizes: Sequence[Source], to: To, place: Path, program: Program | None, *, half: bool
) -> tuple[Agreement, ...]:
    """Run what was written by its own runtime, and compare.

    Raises:
        ExportError: It does not compute what the pruned model does.
    """
    source = sizes[0]
    dynamic = program.dynamic if program else source.takes(max(BATCHES))
    counts = BATCHES if dynamic else (1,)
    tried = [(one, count) for one in sizes for count in counts]
    fed = [one.batch(count) for one, count in tried]
    if to == "onnx":
        made, what = onnx_file.run(place, fed), onnx_file.FILE
    elif to == "torch-export":
        made, what = pt2.run(place, fed), pt2.FILE
    elif to == "timm":
        made, what = timm_folder.run(place, fed), "what timm loads"
    else:
        made, what = hub_folder.run(source, place, fed), "what was saved"
    half = half or source.is_half
    return tuple(
        agreement(
            source.model,
            inputs,
            count if source.batches else 0,
            outputs,
            what,
            half=half,
            size=one.images.size[1:] if one.images and len(sizes) > 1 else None,
        )
        for (one, count), inputs, outputs in zip(tried, fed, made, strict=True)
    )


def _images(source: Source, saved: object, data: Any, data_dir: str | Path | None) -> Data:
    """Open the images to calibrate on, before anything is exported.

    Raises:
        ExportError: The model is not fed images, or there are none to calibrate on.
    """
    if source.images is None:
        raise ExportError("int8 is calibrated on images, and this model is fed something else.")
    where = str(saved) if isinstance(saved, str | Path) else "The result"
    images = images_for(
        source.report, where, source.model, data, data_dir, trains=True, labels=False
    )
    if images.calibration is None:
        raise ExportError(
            f"{images.name} has no images to calibrate on, and test images are never used to; add "
            "a train folder, or pass a pair (calibration, test)."
        )
    return images


def _quantized(
    place: Path,
    images: Data,
    calibration: int,
    on_step: Callable[[str], None],
    *,
    evaluate: bool,
) -> dict[str, float]:
    """Quantise an ONNX file; return its accuracy before and after, if it can be measured."""
    top1 = {}
    tests = images.test if evaluate and images.problem is None else None
    if tests is not None:
        on_step("evaluate")
        top1["before"] = _top1(place, batches(tests, EVAL_BATCH))
    on_step("quantise")
    assert images.calibration is not None, "checked before"
    shown = batches(images.calibration, int8.BATCH, limit=calibration, seed=0)
    int8.quantize_(place, (x for x, *_ in shown))
    if tests is not None:
        on_step("evaluate int8")
        top1["after"] = _top1(place, batches(tests, EVAL_BATCH))
    return top1


def _top1(place: Path, tests: Iterable[Sequence[Tensor]]) -> float:
    return accuracy(onnx_file.OnnxModel(place / onnx_file.FILE), tests)[0]


def _timed(
    sizes: Sequence[Source], place: Path, program: Program | None, on_step: Callable[[str], None]
) -> dict[int, Timing]:
    """Time the file beside one of the dense model, in float32, in the same runtime.

    Only what takes images, and any number of them, is timed.
    """
    if sizes[0].images is None or program is None or not program.dynamic:
        return {}
    on_step("measure")
    dense = sizes[0].dense()
    if dense is None:
        return {}
    with tempfile.TemporaryDirectory() as aside:
        onnx_file.write(
            program_of(sizes[-1].with_model(dense), any_size=len(sizes) > 1),
            Path(aside),
            {},
            half=False,
        )
        models = [onnx_file.OnnxModel(where / onnx_file.FILE) for where in (Path(aside), place)]
        before, after = latencies(models, sizes[0].example)
    return {batch: Timing(before[batch], after[batch]) for batch in before}
