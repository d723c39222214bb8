"""What git keeps of the article's runs says what its runs said, and its table says what they say.

Each test of what is kept is also tried on two small runs that were kept in the same way.
"""

import html
import importlib.util
import runpy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import synthetic
import yaml
from pandas.testing import assert_frame_equal

from gradbench.cli import main as cli
from gradbench.config.compose import Configs
from gradbench.errors import UsageError
from gradbench.report.claims import verdicts
from gradbench.report.claims.output import BEGIN, END, update_document, verdict_table
from gradbench.report.claims.verdicts import Verdict, judge_folders, read_frozen_experiment
from gradbench.report.figures.style import RC

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "article" / "reference.py"
KEPT = ROOT / "results" / "article"
MEGABYTES = 10
REBUILT = 2
"""How many experiments, the smallest, have their whole report rebuilt."""

SIDES = {"treatment": {"regularizer": "gp"}, "control": {"regularizer": "none"}}
CLAIMS: list[dict[str, Any]] = [
    {
        **SIDES,
        "id": "a",
        "sentence": "closer in the end",
        "metric": "test/wasserstein",
        "goal": "min",
        "below": -0.1,
    },
    {
        **SIDES,
        "id": "b",
        "sentence": "smaller gradients on the way",
        "metric": "grad_norm",
        "goal": "min",
        "effect": "ratio",
        "take": "mean",
        "below": 0.9,
        "figure": "gradients",
    },
]


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = module_of(SCRIPT)


def run_of(folder: Path, configs: Path, claims: Sequence[dict[str, Any]]) -> None:
    """Write a run of an experiment with claims, its file, and its report."""
    spec = {"question": "How?", "grid": [{"model": "wgan", "seed": "range(8)"}], "claims": list(claims)}
    synthetic.write(folder, models=["wgan"], strengths={"none": (), "gp": (1.0, 10.0)}, seeds=8, steps=200)
    frozen = {"experiment": folder.name, "question": "How?", "command": "gradbench run quick", "spec": spec}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(frozen))
    (configs / "experiments").mkdir(parents=True, exist_ok=True)
    (configs / "experiments" / f"{folder.name}.yaml").write_text(yaml.safe_dump(spec))
    cli.write_report(folder, quiet=True)


@dataclass(frozen=True)
class Article:
    """Reference results, the document that quotes them, and the folder of experiments beside the package's."""

    kept: Path
    document: Path
    configs: Path | None

    @property
    def folders(self) -> list[Path]:
        """Its experiments, the smallest first."""
        return sorted((path.parent for path in self.kept.glob("*/experiment.yaml")), key=size)


def size(folder: Path) -> int:
    """Return the bytes of what git would keep of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if "report" not in path.relative_to(folder).parts)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Article:
    """Two experiments that were run and kept."""
    place = tmp_path_factory.mktemp("article")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RC, "savefig.dpi", 50)
        run_of(place / "runs" / "first", place / "conf", CLAIMS)
        run_of(place / "runs" / "second", place / "conf", CLAIMS[:1])
    reference.main(place / "runs", place / "kept")
    document = place / "notes.md"
    document.write_text(f"# Notes\n\n{BEGIN}\n{END}\n\nEnd.\n")
    update_document(document, judge_folders(place / "kept", place / "conf")[0])
    return Article(place / "kept", document, place / "conf")


@pytest.fixture(params=["kept in git", "small"])
def article(request: pytest.FixtureRequest, small: Article) -> Article:
    if request.param == "small":
        return small
    if not any(KEPT.glob("*/experiment.yaml")):
        pytest.skip("no reference results")
    return Article(KEPT, KEPT / "README.md", None)


KEPT_VERDICTS: dict[Path, list[Verdict]] = {}
"""Folder that git keeps -> its verdicts, which take seconds."""


def judge_folder(folder: Path, judge: Any = verdicts.judge_folder) -> list[Verdict]:
    """Judge what git keeps once, and any other folder each time."""
    if KEPT not in folder.parents:
        return judge(folder)
    if folder not in KEPT_VERDICTS:
        KEPT_VERDICTS[folder] = judge(folder)
    return KEPT_VERDICTS[folder]


@pytest.fixture(autouse=True)
def _judge_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "judge_folder", judge_folder)


# what reads all that is kept in git takes long
small_and_kept = pytest.mark.parametrize(
    "article", ["small", pytest.param("kept in git", marks=pytest.mark.slow)], indirect=True
)


@small_and_kept
def test_the_table_in_the_document_is_what_the_command_writes(article: Article, tmp_path: Path) -> None:
    copy = tmp_path / "copy.md"
    shutil.copyfile(article.document, copy)
    update_document(copy, judge_folders(article.kept, article.configs)[0])
    assert copy.read_bytes() == article.document.read_bytes()
    assert copy.read_text(encoding="utf-8").count("\n| ") > 2


def test_what_is_kept_stays_small(article: Article) -> None:
    assert size(article.kept) < MEGABYTES * 1e6


def test_each_experiment_was_run_as_its_file_stands(article: Article) -> None:
    for folder in article.folders:
        frozen, filed = (
            read_frozen_experiment(folder),
            Configs(article.configs).experiment(folder.name).source,
        )
        assert frozen["experiment"] == folder.name
        for key in ("question", "grid", "scales", "claims"):
            assert frozen["spec"].get(key) == filed.get(key), f"{folder}: {key}"


@small_and_kept
def test_each_claim_is_judged_and_its_figure_kept(article: Article) -> None:
    for folder in article.folders:
        found = judge_folder(folder)
        assert [one.claim.id for one in found] == [
            str(one["id"]) for one in read_frozen_experiment(folder)["spec"]["claims"]
        ]
        for one in found:
            assert one.figure.parent == folder, f"{one.claim.id} has no figure in {folder}"
            assert any(finding.effect.n for finding in one.judgement.results), one.claim.id


def test_each_cell_is_kept_with_where_it_comes_from(article: Article) -> None:
    for folder in article.folders:
        cells = pd.read_parquet(folder / "cells")
        wanted = ["gradbench", "torch", "python", "device", "git_commit", "data_sha256", "started", "command"]
        assert cells.loc[cells["status"] != "failed", wanted].notna().all(axis=None), folder
        assert cells["cell"].is_unique


@small_and_kept
def test_a_report_is_rebuilt_from_what_is_kept_with_the_same_numbers(
    article: Article, tmp_path: Path
) -> None:
    for folder in article.folders[:REBUILT]:
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("report"))
        cli.write_report(copy, quiet=True)
        assert (copy / "report" / "index.html").is_file()
        found = judge_folder(folder)
        claims = pd.read_csv(copy / "report" / "tables" / "claims.csv", keep_default_na=False)
        assert list(claims.drop_duplicates("claim")["verdict"]) == [one.judgement.verdict for one in found]
        effects = [finding.effect.estimate for one in found for finding in one.judgement.results]
        written = pd.to_numeric(claims["effect"], errors="coerce")
        assert_frame_equal(written.to_frame(), pd.DataFrame({"effect": effects}), check_dtype=False)
        page = html.unescape((copy / "report" / "index.html").read_text(encoding="utf-8"))
        for one in found:
            assert one.claim.sentence in page


# ---- how they are kept -------------------------------------------------------------------------------------


def test_a_claim_comes_out_of_what_is_kept_as_it_came_out_of_the_run(small: Article) -> None:
    for folder in small.folders:
        run = small.kept.parent / "runs" / folder.name
        found = [verdict_table(judge_folder(place)).drop(columns=["figure"]) for place in (run, folder)]
        assert_frame_equal(*found, rtol=1e-9)


def test_of_curves_that_no_claim_reads_ten_steps_are_kept_and_of_others_what_is_read(small: Article) -> None:
    runs = small.kept.parent / "runs"
    before = pd.read_parquet(runs / "first" / "curves")
    first, second = (pd.read_parquet(small.kept / name / "curves") for name in ("first", "second"))
    assert len(first) == len(before) > len(second)
    assert set(second.groupby("cell").size()) == set(first.groupby("cell")["loss"].count()) == {10}
    assert second["step"].max() == before["step"].max()
    assert size(small.kept / "second" / "curves") < 0.2 * size(runs / "second" / "curves")
    assert not (small.kept / "first" / "arrays").exists()


def run_again(small: Article, tmp_path: Path) -> tuple[Path, Path]:
    """Return a copy of a run, and of what was kept of it."""
    for name in ("runs", "kept"):
        shutil.copytree(small.kept.parent / name / "first", tmp_path / name / "first")
    return tmp_path / "runs" / "first", tmp_path / "kept" / "first"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_twice_is_the_same(small: Article, tmp_path: Path) -> None:
    run, place = run_again(small, tmp_path)
    before = contents(place)
    reference.keep(run, place)
    assert contents(place) == before


def test_where_a_number_would_change_nothing_is_kept(
    small: Article, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, place = run_again(small, tmp_path)
    before = contents(tmp_path / "kept")
    thinned = reference.thinned
    monkeypatch.setattr(reference, "thinned", lambda curves, read: thinned(curves, []))
    with pytest.raises(UsageError, match="says something else of its claims"):
        reference.keep(run, place)
    assert contents(tmp_path / "kept") == before


def test_a_figure_that_is_not_drawn_is_asked_for(small: Article, tmp_path: Path) -> None:
    run, place = run_again(small, tmp_path)
    shutil.rmtree(run / "report")
    before = contents(tmp_path / "kept")
    with pytest.raises(UsageError, match=f"draw it with `gradbench report {run}`"):
        reference.keep(run, place)
    assert contents(tmp_path / "kept") == before


def test_an_experiment_without_claims_is_kept_too(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "plain", models=["mlp"], steps=20)
    reference.keep(tmp_path / "plain", tmp_path / "kept")
    assert len(pd.read_parquet(tmp_path / "kept" / "cells")) == len(
        pd.read_parquet(tmp_path / "plain" / "cells")
    )


@pytest.mark.parametrize(
    "words", [[], ["{folder}/nothing", "{folder}/place"], ["{folder}", "{folder}/taken"]]
)
def test_what_cannot_be_kept_is_refused_in_one_line(
    words: list[str], small: Article, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small.kept / "second", tmp_path / "second")
    (tmp_path / "taken" / "second" / "thesis").mkdir(parents=True)
    given = [word.format(folder=tmp_path) for word in words]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    said = str(stopped.value.code)  # printed by Python, with the exit status 1
    assert "\n" not in said
    assert said.startswith(("error: ", "usage: "))
    assert (tmp_path / "taken" / "second" / "thesis").is_dir()


def claims_command(*words: object) -> int:
    """Run ``gradbench claims`` in this process; return its exit status."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(["claims", *map(str, words)])
    return int(stopped.value.code or 0)


def test_the_claims_command_fills_the_document_between_its_lines_alone(
    small: Article, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small.kept, tmp_path / "kept")
    (tmp_path / "notes.md").write_text(f"# Notes\n\n{BEGIN}\nold\n{END}\n\nEnd.\n")
    words = (tmp_path / "kept", "--into", tmp_path / "notes.md", "--config-dir", small.configs)
    assert claims_command(*words) == 0, capsys.readouterr().err
    assert (tmp_path / "notes.md").read_bytes() == small.document.read_bytes()
    assert len(pd.read_csv(tmp_path / "kept" / "claims.csv")) == 3


def test_a_document_without_the_lines_is_refused_and_left_alone(
    small: Article, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small.kept, tmp_path / "kept")
    (tmp_path / "notes.md").write_text("# Notes\n")
    assert claims_command(tmp_path / "kept", "--into", tmp_path / "notes.md") != 0
    said = capsys.readouterr().err
    assert BEGIN in said
    assert "Traceback" not in said
    assert (tmp_path / "notes.md").read_text() == "# Notes\n"
