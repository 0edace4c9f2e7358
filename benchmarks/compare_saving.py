"""What a comparison saves: `prunekit compare` beside a loop of `prunekit run`, on one grid.

    python benchmarks/compare_saving.py [MODEL ...]

Six criteria at three ratios, one shot, without repair. Both ways are run as a user would, as
processes, one right after the other; the loop's figures are checked against the comparison's.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import page
from rich.table import Table

from prunekit.inputs import zoo

RESULT = Path(__file__).parent / "results" / "compare_saving.md"
CRITERIA = ("random", "magnitude", "dimap", "taylor", "wanda", "flap")
RATIOS = ("0.3", "0.5", "0.7")


def main() -> None:
    table = Table("model", "cells", "loop of run, s", "compare, s", "saving", "equal accuracies")
    for model in sys.argv[1:] or zoo.names():
        with tempfile.TemporaryDirectory() as home:
            took, found = compared(model, Path(home))
        loop, expected = looped(model)
        same = sum(abs(found[cell] - expected[cell]) < 1e-9 for cell in expected)
        row = (f"{len(expected)}", f"{loop:.1f}", f"{took:.1f}", f"{loop / took:.1f}x")
        table.add_row(model, *row, f"{same} of {len(expected)}")
        print(model, *row, same, flush=True)
    RESULT.write_text(
        "# What a comparison saves\n\n" + __doc__.split("\n\n", 2)[2].strip() + "\n\n"
        f"{page.markdown(table)}\n\nOf each second of the comparison, most goes to evaluating the "
        "small models on 10,000 test images, which cannot be shared.\n\n"
        f"{page.facts('0', 1)}\n"
    )


def looped(model: str) -> tuple[float, dict[tuple[str, str], float]]:
    """Run every cell as a process of its own."""
    began, found = time.time(), {}
    for criterion in CRITERIA:
        for ratio in RATIOS:
            flags = ["--arch", model, "--criterion", criterion, "--ratio", ratio, "--json"]
            report = json.loads(prunekit("run", *flags))
            found[criterion, ratio] = report["after"]["top1"]
    return time.time() - began, found


def compared(model: str, home: Path) -> tuple[float, dict[tuple[str, str], float]]:
    """Run the grid."""
    began = time.time()
    names = ["--criterion", ",".join(CRITERIA), "--ratio", ",".join(RATIOS)]
    prunekit("compare", "--arch", model, *names, "--out", str(home))
    seconds = time.time() - began
    with (home / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    return seconds, {(row["criterion"], row["ratio"]): float(row["top1"]) for row in rows}


def prunekit(*words: str) -> str:
    command = [sys.executable, "-m", "prunekit", *words]
    alike = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=alike).stdout


if __name__ == "__main__":
    main()
