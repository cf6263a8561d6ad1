"""The notebook runs from its first cell to its last, and what it shows is right."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


@pytest.mark.ranks
def test_the_tour(tmp_path: Path):
    notebook = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "it is kept without outputs"
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    shown = [ast.literal_eval(one["data"]["text/plain"]) for one in outputs if one.output_type == "execute_result"][-2:]
    one, many = shown
    assert len(one) == 5 and all(isinstance(track, str) and score > 0 for track, score in one)
    assert [len(answer["tracks"]) for answer in many] == [3, 3, 3]
    assert many[0]["tracks"] == [track for track, _ in one[:3]], "the first session is the same"
