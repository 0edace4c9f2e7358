"""onnx: a file that onnxruntime, and whatever else reads ONNX, runs on its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import Inputs, tensors_of
from ..errors import ExportError
from ..tracing.running import reason
from .program import Program, quietly

FILE = "model.onnx"
DIMS = {0: "batch", 2: "height", 3: "width"}  # what those that are free are called
DTYPES = {"tensor(float16)": torch.float16, "tensor(float)": torch.float32,
         "tensor(double)": torch.float64}  # fmt: skip


def write(program: Program, place: Path, origin: Mapping[str, str], *, half: bool) -> None:
    """Write a program to a directory as an ONNX file.

    Args:
        program: The pruned model.
        place: The directory.
        origin: What the file says about where it comes from.
        half: Turn weights and what is computed into float16; inputs and outputs stay as they are.

    Raises:
        ExportError: The model cannot be written so.
    """
    names: dict[str, Any] = {}
    if len(program.exported.graph_signature.user_inputs) == 1:
        names = {"input_names": ["input"]}
    if len(program.exported.graph_signature.user_outputs) == 1:
        names = {**names, "output_names": ["output"]}
    try:
        with quietly():
            made: Any = torch.onnx.export(program.exported, dynamo=True, verbose=False, **names)
    except Exception as error:  # the exporter's own errors, and those of its parts
        raise ExportError(
            f"torch.onnx cannot write this model ({reason(error)}); export it to torch-export."
        ) from error
    _forget_traces_(made.model)
    if program.dynamic:
        _name_dims_(made.model)
    made.model.metadata_props.update(origin)
    made.save(place / FILE)
    if half:
        _halve(place / FILE)


def run(place: Path, batches: Sequence[Inputs]) -> list[list[Tensor]]:
    """Run the file in onnxruntime on each batch."""
    model = OnnxModel(place / FILE)
    return [model.tensors(inputs) for inputs in batches]


class OnnxModel(nn.Module):
    """An ONNX file as a module, so that whatever measures modules measures it.

    Its only parameter is empty, and says where inputs are expected, and in which precision.
    """

    def __init__(self, path: Path):
        """Load a file into onnxruntime, on the CPU, with as many threads as torch takes."""
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what fails is raised, and the rest concerns nobody here
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no class
            raise ExportError(
                f"onnxruntime cannot run {path.name} ({reason(error)}); export the model in "
                "float32, or to torch-export."
            ) from error
        fed = [each.type for each in self._session.get_inputs()]
        self.like = nn.Parameter(torch.empty(0, dtype=DTYPES.get(fed[0], torch.float32)))

    def tensors(self, inputs: Inputs) -> list[Tensor]:
        """Return all outputs for some inputs."""
        named = zip(self._session.get_inputs(), tensors_of(inputs), strict=True)
        fed = {each.name: tensor.detach().numpy() for each, tensor in named}
        try:
            return [torch.from_numpy(output) for output in self._session.run(None, fed)]
        except Exception as error:  # onnxruntime's errors share no class
            raise ExportError(
                f"{FILE} does not run in onnxruntime ({reason(error)}); export the model to "
                "torch-export."
            ) from error

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return all outputs for a batch of images."""
        return self.tensors(images)


def _forget_traces_(model: Any) -> None:
    """Drop what the exporter notes about every node: lines of code, and paths of this machine.

    In small models that is half of the file.
    """
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _name_dims_(model: Any) -> None:
    """Call free dimensions of the input by names, in the place of what torch.export made up."""
    import onnx_ir

    dims = dict(enumerate(model.graph.inputs[0].shape))
    names = {
        str(dims[number]): name
        for number, name in DIMS.items()
        if isinstance(dims.get(number), onnx_ir.SymbolicDim)
    }
    made_up = re.compile(rf"\b({'|'.join(names)})\b")
    values = [*model.graph.inputs, *(out for node in model.graph for out in node.outputs)]
    for value in values:
        if value.shape is not None:
            for number, dim in enumerate(value.shape):
                if isinstance(dim, onnx_ir.SymbolicDim) and dim.value is not None:
                    value.shape[number] = made_up.sub(lambda found: names[found[0]], dim.value)


def _halve(path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quietly():
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)
