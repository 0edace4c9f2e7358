"""The named data sets, and the one that ships inside the package."""

from pathlib import Path

DATASETS = {
    "fashion-mnist": "Fashion-MNIST, 60,000 training and 10,000 test images",
    "fashion-mnist-mini": "in the package: 5,000 calibration images and the 10,000 test images",
}
MINI = Path(__file__).parent / "fashion-mnist-mini"
