"""How long does `prune` take with a repair by least squares, and how much memory?"""

from __future__ import annotations

import time
from statistics import fmean
from typing import Any

from prunekit import prune

from .inside import DATA, peak_bytes
from .models import Models


def repair(models: Models, name: str) -> dict[str, Any]:
    """Prune a model by DIMAP, repair it on a few images, and time each step."""
    settings, dense = models.settings, models.with_ten_classes(name)
    found = []
    options = {"repair": "lstsq", "data": DATA, "calibration": settings.calibration}

    def work() -> None:
        found.append(prune(dense, "dimap", settings.middle, seed=settings.seed, **options))

    start = time.perf_counter()
    memory = peak_bytes(work, dense) if models.device.type == "cuda" else work()
    whole = time.perf_counter() - start
    result = found[0]
    errors = list(result.rounds[0].repaired.values())
    return {
        "model": name,
        "images": settings.calibration,
        "layers": len(errors),
        "error_before": fmean(error.before for error in errors),
        "error_after": fmean(error.after for error in errors),
        "whole_seconds": whole,
        "seconds": dict(result.seconds),
        "peak_bytes": memory,  # of the CPU none: to count tensors there would slow all of it
        "weight_bytes": sum(parameter.nbytes for parameter in dense.parameters()),
    }


def warm_up(models: Models) -> dict[str, Any]:
    """Prune and repair a small model, so that libraries that load on first use do not count."""
    options = {"repair": "lstsq", "calibration": 16, "device": models.device.type}
    start = time.perf_counter()
    prune("vit_micro", "magnitude", 0.5, axes=("mlp", "head_dim"), **options)
    return {"seconds": time.perf_counter() - start}
