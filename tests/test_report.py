"""The report: complete, self-contained, usable in a real browser; DEVIATIONS.md is fresh."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_sparse import sparse_records
from synthetic_titans import titans_records, write_titans

from paper_repro.errors import UserError
from paper_repro.ledger import judge_results, load_ledger
from paper_repro.plots import save, titans
from paper_repro.plots.source import Results
from paper_repro.plots.style import style
from paper_repro.report import build, deviations_text
from paper_repro.report.deviations import DEVIATIONS
from paper_repro.results import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with one failure, one figure, one table, and the report on them."""
    root = tmp_path_factory.mktemp("report")
    write_titans(root / "results", "smoke", seeds=3, examples=200)
    write_titans(root / "results", "cpu", seeds=3, examples=200)
    failed = titans_records("smoke", 1, 100)[5].model_copy(
        update={"status": "failed", "error": "RuntimeError: <no> luck", "metrics": [], "samples": {}, "key": "f" * 64}
    )
    Store(root / "results").write(failed)
    results = Results.open(root / "results", "titans", "smoke")
    for plot in (titans.FOREST, titans.TABLE4):
        data, shown = plot.rows(results)
        with style():
            save.save(plot.draw(data), data, plot, shown, root / "figures")
    build(root / "results", root / "figures", root / "report.html")
    return root


class Page(HTMLParser):
    """Tags with attributes, visible text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "input", "wbr", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_claim_of_every_tier_is_there_with_its_derivation(folder: Path) -> None:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-verdict" in attributes]
    for tier in ("smoke", "cpu"):
        verdicts = judge_results(folder / "results", "titans", tier)
        assert [row["data-verdict"] for row in rows if row["data-tier"] == tier] == [v.verdict for v in verdicts]
        for verdict in verdicts:
            assert " ".join(verdict.statement.split()) in " ".join(page.text.split())
            assert verdict.derivation is None or verdict.derivation in page.text


def test_it_needs_no_network(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert tag != "script" or "src" not in attributes
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert "default-src 'none'" in text and not re.search(r"url\(|@import", text)


def test_figures_tables_failures_costs_and_deviations_are_there(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert sum(tag == "img" and attributes["alt"] == titans.FOREST.caption for tag, attributes in page.tags) == 1
    assert titans.TABLE4.caption in page.text and "CD-III, abstain class" in page.text
    assert "RuntimeError: <no> luck" in page.text and "<no>" not in text
    assert "Example CPU" in page.text and "torch 2.11.0" in page.text and "commit 0123456789ab" in page.text
    assert "validation split" in page.text and "draw it again" not in page.text


def test_a_figure_of_other_records_is_marked(folder: Path, tmp_path: Path) -> None:
    build(folder / "results", folder / "figures", tmp_path / "report.html", tier="cpu")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "of these records are not among those of this report: draw it again." in page.text
    assert {attributes["data-tier"] for _, attributes in page.tags if "data-tier" in attributes} == {"cpu"}


def test_the_numbers_of_a_papers_tables_do_not_flood_it(folder: Path, tmp_path: Path) -> None:
    for record in sparse_records(seeds=3)[:30]:
        Store(tmp_path / "results").write(record)
    build(tmp_path / "results", tmp_path / "figures", tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    entries = load_ledger("sparse").entries
    claims = [entry for entry in entries if entry.table is None]
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-verdict" in attributes]
    assert len(rows) == len(claims) < 70 and {row["data-paper"] for row in rows} == {"sparse"}
    assert f"{len(entries) - len(claims)} numbers of the papers' tables are not judged and not listed" in page.text
    assert "are not judged and not listed" not in (folder / "report.html").read_text(encoding="utf-8")


def test_no_records_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There are no records in .* run 'paper-repro run all' first"):
        build(tmp_path, tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_filter_works_in_a_browser_without_a_word_in_the_console(folder: Path) -> None:
    judged = [verdict for tier in ("cpu", "smoke") for verdict in judge_results(folder / "results", "titans", tier)]
    for query, fits in {
        "": judged,
        "verdict=reproduced&tier=cpu": [v for v in judged if (v.verdict, v.tier) == ("reproduced", "cpu")],
        "kind=control": [v for v in judged if v.kind == "control"],
        "text=abstain%20class": [v for v in judged if "abstain" in v.statement],
    }.items():
        dom, console = browse(f"{(folder / 'report.html').as_uri()}#{query}")
        rows = [attributes for tag, attributes in Page(dom).tags if tag == "tr" and "data-verdict" in attributes]
        visible = [row for row in rows if "hidden" not in row]
        assert f"{len(visible)} of {len(judged)} entries." in dom
        if not query.startswith("text"):
            assert len(visible) == len(fits)
        else:
            assert len(fits) <= len(visible) < len(judged)
        assert "CONSOLE" not in console, console


def browse(address: str) -> tuple[str, str]:
    """The document after its script has run, and what chromium logged."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
        "--host-resolver-rules=MAP * 127.0.0.1:9", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, done.stderr


@pytest.mark.skipif(not DEVIATIONS.exists(), reason="DEVIATIONS.md has not been generated yet")
def test_deviations_md_is_fresh() -> None:
    text = deviations_text()
    assert DEVIATIONS.read_text(encoding="utf-8") == text, "stale: run python -m paper_repro.report.deviations"
