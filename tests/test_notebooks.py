"""The notebooks run from their first cell to their last, and hold what they printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 100_000  # bytes of a notebook; images are small
PRIVATE = re.compile(r"/(home|root|tmp|Users|usr|opt)/|File \"/")  # paths of one machine


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def run(notebook: Any, folder: Path) -> None:
    """Execute a notebook in a folder; an error in a cell is raised."""
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["own_criterion", "prune_repair_export"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run(read(path), tmp_path)


def test_an_error_in_a_cell_is_not_overlooked(tmp_path):
    cells = [nbformat.v4.new_code_cell("1 / 0")]
    broken = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(broken, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_and_are_of_no_machine(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown"
        assert not cell.metadata  # no time of execution
    for cell in code:
        for output in cell.outputs:
            assert output.output_type in {"stream", "display_data", "execute_result"}
            assert output.get("name", "stdout") == "stdout"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not PRIVATE.search(text)
    assert path.stat().st_size < LARGEST
