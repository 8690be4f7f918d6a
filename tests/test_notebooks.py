"""The notebooks run headless on any results folder, without torch, and are committed without outputs."""

import html
import time
from pathlib import Path

import nbformat
import pytest
from synthetic_titans import write_titans

from paper_repro.errors import UserError
from paper_repro.paths import NOTEBOOKS, RESULTS
from paper_repro.plots import notebooks, titans
from paper_repro.plots.source import tiers_of

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_there_is_a_summary_and_one_notebook_per_paper() -> None:
    assert [path.name for path in ALL] == ["00_summary.ipynb", "01_titans.ipynb"]
    assert notebooks.notebooks("titans") == [NOTEBOOKS / "01_titans.ipynb"]
    assert notebooks.notebooks("all") == ALL
    with pytest.raises(UserError, match=r"no notebook of 'titan' .* choose one of: all, summary, titans"):
        notebooks.notebooks("titan")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_ends_with_the_check_for_torch(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
    assert 'assert "torch" not in sys.modules' in code[-1].source
    assert "claims" in code[-1].source, "the last cell shows the tolerance checks"


def text_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    texts = (str(output.get("text", "")) + str(output.get("data", {}).get("text/html", "")) for output in outputs)
    return html.unescape("\n".join(texts))


def test_executed_on_a_results_folder_they_write_every_figure_and_the_checks(tmp_path: Path) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=3, examples=200)
    written = notebooks.execute("all", tmp_path / "results", tmp_path / "figures", "gpu")
    assert [path.name for path in written] == [path.name for path in ALL]
    drawn = {path.stem for path in (tmp_path / "figures" / "titans").glob("*.json")}
    assert drawn == set(titans.PLOTS)
    for path in written:
        text = text_of(path)
        assert "There are no records of titans at tier 'gpu' here; drawn from tier 'smoke' instead." in text
        assert "C1-strong" in text and "C7-ends" in text


def test_no_results_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no records in"):
        notebooks.execute("titans", tmp_path, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_a_cell_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=1, examples=100)
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0", id="one")])
    nbformat.write(broken, tmp_path / "09_broken.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    with pytest.raises(UserError, match=r"09_broken.ipynb failed \(.*ZeroDivisionError"):
        notebooks.execute("broken", tmp_path / "results", tmp_path / "figures", "smoke")


@pytest.mark.skipif(not tiers_of(RESULTS, "titans"), reason="no reference results are committed yet")
def test_on_the_reference_results_they_take_less_than_a_minute(tmp_path: Path) -> None:
    started = time.process_time(), time.perf_counter()
    notebooks.execute("all", RESULTS, tmp_path / "figures", "cpu")
    assert time.perf_counter() - started[1] < 60
