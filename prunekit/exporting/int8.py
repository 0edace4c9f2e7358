"""int8: an ONNX file whose weights and activations are eight bits, by onnxruntime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ExportError
from ..tracing.running import reason
from .onnx_file import FILE
from .program import quietly

BATCH = 32  # images that are calibrated on at once


def quantize_(place: Path, images: Iterable[Tensor]) -> None:
    """Replace an ONNX file by one in int8, whose ranges are those that some images reach.

    Weights get a scale for each output channel, activations one for each tensor, both symmetric:
    static quantisation as onnxruntime does it, with its own defaults for the ranges (the smallest
    and the largest value seen).

    Args:
        place: The directory of the file.
        images: Calibration images, batch by batch.

    Raises:
        ExportError: onnxruntime cannot quantise it.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as aside:
        prepared, made = Path(aside) / "prepared.onnx", Path(aside) / FILE
        try:
            with quietly():
                quant_pre_process(str(place / FILE), str(prepared), skip_symbolic_shape=True)
                quantization.quantize_static(
                    str(prepared),
                    str(made),
                    _reader(quantization.CalibrationDataReader, images),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                )
        except Exception as error:  # onnxruntime's errors share no class
            raise ExportError(
                f"onnxruntime cannot quantise this model ({reason(error)}); leave --quantize out."
            ) from error
        (place / FILE).write_bytes(made.read_bytes())


def _reader(base: type, images: Iterable[Tensor]) -> Any:
    """Return what onnxruntime takes calibration images from."""
    batches = iter(images)

    class Reader(base):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"input": batch.numpy()}

    return Reader()
