"""The notebooks run headless on any results folder, without torch, and are committed without outputs."""

import html
from pathlib import Path

import nbformat
import pytest
from synthetic_combined import write_combined
from synthetic_majority import write_majority
from synthetic_recycle import write_recycle
from synthetic_sparse import write_sparse
from synthetic_titans import write_titans

from paper_repro.errors import UserError
from paper_repro.paths import NOTEBOOKS, RESULTS
from paper_repro.plots import notebooks, own
from paper_repro.plots.source import tiers_of

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_there_is_a_summary_and_one_notebook_per_paper() -> None:
    names = ["00_summary.ipynb", "01_titans.ipynb", "02_sparse.ipynb", "03_recycle.ipynb", "04_majority.ipynb"]
    assert [path.name for path in ALL] == names
    assert notebooks.notebooks("titans") == [NOTEBOOKS / "01_titans.ipynb"]
    assert notebooks.notebooks("all") == ALL
    assert notebooks.notebooks("combined") == [NOTEBOOKS / "00_summary.ipynb"], "what combines the papers"
    with pytest.raises(
        UserError, match=r"no notebook of 'titan' .* choose one of: all, summary, titans, sparse, recycle, majority"
    ):
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


@pytest.mark.slow  # all of them; test_smoke.py executes those of the papers one by one
def test_executed_on_a_results_folder_they_write_every_figure_and_the_checks(tmp_path: Path) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=3, examples=200)
    write_sparse(tmp_path / "results", "cpu", seeds=3)
    write_recycle(tmp_path / "results", "cpu", seeds=3)
    write_majority(tmp_path / "results", "cpu", seeds=3)
    write_combined(tmp_path / "results", "cpu", seeds=3)
    written = notebooks.execute("all", tmp_path / "results", tmp_path / "figures", "gpu")
    assert [path.name for path in written] == [path.name for path in ALL]
    summary = text_of(written[0])
    papers = {
        "titans": ("smoke", "C1-strong", "C7-ends"),
        "sparse": ("cpu", "1-kd", "B8-int8"),
        "recycle": ("cpu", "T1", "T7"),
        "majority": ("cpu", "C1-mlp", "M-norms"),
    }
    assert {path.stem for path in (tmp_path / "figures" / "combined").glob("*.json")} == set(own.plots("combined"))
    for path, (paper, (tier, *claims)) in zip(written[1:], papers.items(), strict=True):
        assert {path.stem for path in (tmp_path / "figures" / paper).glob("*.json")} == set(own.plots(paper))
        for text in (text_of(path), summary):
            assert f"There are no records of {paper} at tier 'gpu' here; drawn from tier '{tier}' instead." in text
            assert all(claim in text for claim in claims)
            assert "Nothing was recorded" not in text


def test_without_records_of_its_paper_a_notebook_says_so_and_draws_nothing(tmp_path: Path) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=1, examples=100)
    (path,) = notebooks.execute("sparse", tmp_path / "results", tmp_path / "figures", "cpu")
    text = text_of(path)
    assert "There are no records of sparse here" in text and "paper-repro run sparse --tier cpu" in text
    for name in own.plots("sparse"):
        assert f"Nothing was recorded for {name} at tier 'cpu'." in text
    assert "nothing was recorded for it" in text, "the claims are there, and not run"
    assert not (tmp_path / "figures" / "sparse").exists()


def test_no_results_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no records in"):
        notebooks.execute("titans", tmp_path, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_a_cell_that_fails_is_named_and_stops_no_other_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_titans(tmp_path / "results", "smoke", seeds=1, examples=100)
    for name, code in {"08_broken": "1 / 0", "09_slower": "import time; time.sleep(1)"}.items():
        cells = [nbformat.v4.new_code_cell(code, id="one")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    with pytest.raises(UserError, match=r"08_broken.ipynb failed \(.*ZeroDivisionError"):
        notebooks.execute("all", tmp_path / "results", tmp_path / "figures", "smoke")
    assert (tmp_path / "figures" / "notebooks" / "09_slower.ipynb").exists()


@pytest.mark.slow  # each of them draws all figures of a paper
@pytest.mark.skipif(not tiers_of(RESULTS, "titans"), reason="no reference results are committed yet")
def test_they_run_on_the_reference_results(tmp_path: Path) -> None:
    assert len(notebooks.execute("all", RESULTS, tmp_path / "figures", "cpu")) == len(ALL)
