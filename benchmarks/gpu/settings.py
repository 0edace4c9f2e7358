"""Settings: which models, sizes and precisions are measured, in the order of importance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What is measured; whatever stands first is measured first.

    Attributes:
        device: `cuda`, or `cpu` for a dry run.
        models: All of them.
        sparse_models: Those that are also made 2:4.
        repaired_models: Those that are also repaired.
        ratios: Fractions of the MACs to remove.
        middle: The ratio of the sections that have one only.
        batches: Images in a forward pass.
        precisions: See `precision.PRECISIONS`.
        half: The precision of the sections that have one only.
        memory_precisions: Those in which memory is measured.
        multiple: What kept sizes are multiples of.
        other_multiples: What they also are at the middle ratio.
        compiler: The backend of torch.compile.
        compiled_batches: Images in a forward pass of a compiled model.
        calibration: Images for a repair.
        train_batch: Images in a training step.
        seed: Of weights, images and labels.
    """

    device: str
    models: tuple[str, ...]
    sparse_models: tuple[str, ...]
    repaired_models: tuple[str, ...]
    ratios: tuple[float, ...]
    middle: float
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    half: str
    memory_precisions: tuple[str, ...]
    multiple: int
    other_multiples: tuple[int, ...]
    compiler: str
    compiled_batches: tuple[int, ...]
    calibration: int
    train_batch: int
    seed: int


FULL = Settings(
    device="cuda",
    models=("swin_t", "vit_b", "convnext_b", "swin_b", "deit_s", "swin_s"),
    sparse_models=("vit_b", "swin_b", "deit_s", "swin_t"),
    repaired_models=("swin_t", "vit_b", "convnext_b"),
    ratios=(0.3, 0.5, 0.7),
    middle=0.5,
    batches=(128, 1),
    precisions=("bf16", "tf32", "fp16", "fp32"),
    half="bf16",
    memory_precisions=("bf16", "fp32"),
    multiple=8,
    other_multiples=(32, 64),
    compiler="inductor",
    compiled_batches=(128, 1),
    calibration=256,
    train_batch=64,
    seed=0,
)
DRY = Settings(
    device="cpu",
    models=("vit_micro",),
    sparse_models=("vit_micro",),
    repaired_models=("vit_micro",),
    ratios=(0.3, 0.5),
    middle=0.5,
    batches=(2, 1),
    precisions=("bf16", "fp32"),
    half="bf16",
    memory_precisions=("fp32",),
    multiple=8,
    other_multiples=(32,),
    compiler="eager",
    compiled_batches=(1,),
    calibration=16,
    train_batch=4,
    seed=0,
)
