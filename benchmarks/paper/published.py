"""The paper's figures, as printed in its Tables 1, 3 and 4 (top-1 and top-5 in percent).

He and Zhou, Data-independent Module-Aware Pruning for Hierarchical Vision Transformers, ICLR 2024,
arXiv:2404.13648. Accuracies are of ImageNet-1K at 224 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

FRACTIONS = {"DIMAP1": 0.15, "DIMAP2": 0.35, "DIMAP3": 0.55}  # of each module; ours, see sizes
TABLE_3_RATIOS = (0.19, 0.28, 0.38, 0.50)  # of all parameters


@dataclass(frozen=True)
class Row:
    """A row of Table 1: after fine-tuning; parameters in millions, MACs in billions."""

    top1: float
    top5: float
    params: float
    macs: float


TABLE_1: dict[str, dict[str, Row]] = {
    "swin_b": {
        "dense": Row(83.48, 96.46, 87.8, 15.4),
        "DIMAP1": Row(83.52, 96.43, 75.2, 13.2),
        "DIMAP2": Row(83.43, 96.42, 58.4, 10.2),
        "DIMAP3": Row(83.28, 96.39, 41.7, 7.3),
    },
    "swin_s": {
        "dense": Row(83.19, 96.23, 49.6, 8.7),
        "DIMAP1": Row(83.08, 96.25, 42.5, 7.5),
        "DIMAP2": Row(82.99, 96.26, 33.1, 5.8),
        "DIMAP3": Row(82.63, 96.12, 23.7, 4.1),
    },
    "swin_t": {
        "dense": Row(81.16, 95.48, 28.3, 4.5),
        "DIMAP1": Row(81.17, 95.47, 24.4, 3.8),
        "DIMAP2": Row(81.11, 95.42, 19.2, 3.0),
        "DIMAP3": Row(80.35, 95.22, 14.0, 2.2),
    },
}
TABLE_3: dict[str, dict[str, tuple[float, ...]]] = {  # top-1, one shot
    "swin_b": {"uniform": (83.25, 82.27, 77.73, 15.26), "DIMAP": (83.36, 83.02, 81.95, 78.13)},
    "swin_s": {"uniform": (82.91, 81.91, 77.86, 13.93), "DIMAP": (82.98, 82.58, 81.56, 76.78)},
    "swin_t": {"uniform": (80.70, 79.20, 72.06, 6.02), "DIMAP": (80.87, 80.24, 78.54, 71.36)},
}
TABLE_4_ONE_MODULE = {"swin_b": 83.17, "swin_s": 82.31, "swin_t": 80.12}  # DIMAP3, fine-tuned
