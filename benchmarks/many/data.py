"""The two data sets of the bench: Fashion-MNIST, and scikit-learn's digits."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

from prunekit.inputs.data import open_data
from prunekit.inputs.fashion import ArrayImages
from prunekit.inputs.feed import InputSpec

MEANS = {"fashion": (0.2860, 0.3530), "digits": (0.3053, 0.3761)}  # of training images, and stds
TEST = 797  # of the 1,797 digits; the other thousand are trained on


def splits(name: str, model: nn.Module) -> tuple[ArrayImages, ArrayImages]:
    """Return training and test images of one of `MEANS`, prepared for a model."""
    if name == "fashion":
        data = open_data("fashion-mnist", model)
        return data.calibration, data.test
    raw = load_digits()
    images = torch.tensor(raw.images / 16 * 255).round().to(torch.uint8)  # (1797, 8, 8)
    labels = torch.tensor(raw.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    spec = InputSpec.of(model)
    return tuple(
        ArrayImages(images[part], labels[part], spec) for part in (order[TEST:], order[:TEST])
    )
