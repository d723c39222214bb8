import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import special as scipy_special
from scipy import stats as scipy_stats
from small import in_suites
from synthetic import EVIL

from gradbench.errors import UsageError
from gradbench.report import answers, build, figures
from gradbench.report.analysis.audit import audit
from gradbench.report.analysis.comparison import ComparisonGroup, list_comparisons
from gradbench.report.figures import divergence
from gradbench.report.figures.pairs import map_keys
from gradbench.report.figures.panels import NARROW, end_label
from gradbench.report.figures.style import assign_looks
from gradbench.report.load.cells import config_columns, load_results
from gradbench.report.load.curves import scan_curves
from gradbench.report.load.sparklines import encode_curves
from gradbench.report.render.formatting import format_interval, format_number, format_ratio, natural_key
from gradbench.stats.intervals import Interval
from gradbench.stats.scales import Scale
from gradbench.storage.grids import remember_grid

FEW = {"none": (), "clip_norm": (0.1, 1.0), "gp": (1.0, 10.0)}
ODD = {"none": (), "clip_norm": (1.0, np.inf), "gp": (0.0,), "a_very_long_name_of_mine": ()}


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "quick"
    synthetic.write(folder)
    build(folder)
    return folder


class Page(HTMLParser):
    """Collects what a browser would see of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open == "h2":
            self.headings.append(data)
        if self._open not in ("script", "style"):
            self.words.append(data)
        self._open = ""

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page(folder: Path) -> Page:
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "report" / "tables" / f"{name}.csv", keep_default_na=True, na_values=[])


def share_to_log_odds(values):
    """Return the log odds of shares of the thousand examples that a folder without their number is taken to have."""
    return scipy_special.logit((values * 1000 + 0.5) / 1001)


def log_odds_to_share(values):
    return (scipy_special.expit(values) * 1001 - 0.5) / 1000


SCALES = {
    "lstm": (np.log, np.exp),
    "wgan": (np.log, np.exp),
    "mlp": (share_to_log_odds, log_odds_to_share),
}


def test_a_folder_with_more_seeds_keeps_its_name_and_question_and_lists_commands_as_they_were_typed(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "quick"
    cells = synthetic.write(folder, models=["mlp"], strengths={"none": ()})
    typed = ["gradbench run quick", "gradbench run model=mlp 'seed=range(79)' --results quick"]
    for command, name, question, own in zip(
        typed, ("quick", "sweep"), ("Clip or not?", ""), ([], list(cells["cell"])), strict=True
    ):
        remember_grid(folder, {"experiment": name, "question": question, "command": command, "cells": own})
    loaded = load_results(folder)
    assert (loaded.name, loaded.question) == ("quick", "Clip or not?")
    written = build(folder).page
    for said in (" ".join(" ".join(page(folder).words).split()), written.with_name("report.md").read_text()):
        places = [said.index(text) for text in ("several commands, the first typed first", *typed)]
        assert places == sorted(places)


def test_the_strengths_table_says_what_pandas_says_of_the_cells(quick: Path) -> None:
    cells = pd.read_parquet(quick / "cells")
    told = table(quick, "strengths")
    assert len(told) == 39
    for row in told.to_dict("records"):
        own = cells[(cells["model"] == row["comparison"]) & (cells["regularizer"] == row["treatment"])]
        key = synthetic.KEYS.get(str(row["treatment"]))
        if key is not None:
            own = own[own[f"regularizer.{key}"] == row["strength"]]
        values = own[str(row["metric"])].dropna()
        assert row["completed"] == len(values)
        assert row["diverged"] == (own["status"] == "diverged").sum()
        if len(values) > 1:
            there, back = SCALES[str(row["comparison"])]
            theirs = scipy_stats.ttest_1samp(there(values), 0).confidence_interval(0.95)
            told_of_it = row["mean"], row["mean_low"], row["mean_high"]
            assert told_of_it == pytest.approx(
                (back(there(values).mean()), back(theirs.low), back(theirs.high))
            )


def test_beside_each_mean_stand_the_interquartile_mean_and_the_probability_of_improvement(
    quick: Path,
) -> None:
    cells = pd.read_parquet(quick / "cells")
    cells = cells[cells["model"] == "mlp"]
    values = {key: own["test/accuracy"].to_numpy() for key, own in cells.groupby("regularizer")}
    told = table(quick, "strengths").set_index(["comparison", "treatment", "strength"])
    row = told.loc[("mlp", "clip_norm", 1.0)]
    own = cells.loc[
        cells["regularizer.threshold"].eq(1.0) & cells["regularizer"].eq("clip_norm"), "test/accuracy"
    ]
    theirs = scipy_stats.mannwhitneyu(own, values["none"]).statistic / (len(own) * len(values["none"]))
    assert row["improvement"] == pytest.approx(theirs)
    assert row["improvement_low"] < theirs <= row["improvement_high"]
    assert row["iqm"] == pytest.approx(log_odds_to_share(scipy_stats.trim_mean(share_to_log_odds(own), 0.25)))
    assert (
        told.loc[("lstm", "clip_norm", 5.0), "improvement"] == (0.5 * 2 + 1) / 3
    )  # of none all three diverged
    page_of_it = " ".join(page(quick).words)
    assert "interquartile mean" in page_of_it
    assert "P(better than none)" in page_of_it


def test_a_profile_is_the_share_of_all_cells_that_are_as_good_and_diverged_ones_never_are(
    quick: Path,
) -> None:
    cells = pd.read_parquet(quick / "cells")
    told = table(quick, "profiles")
    for (model, treatment), rows in told[told["strengths"] == "every strength"].groupby(
        ["comparison", "treatment"]
    ):
        own = cells[(cells["model"] == model) & (cells["regularizer"] == treatment)]
        values = own[synthetic.MODELS[model]["metric"]].to_numpy()
        levels = rows["at_least_as_good_as"].to_numpy()[:, None]
        good = values >= levels - 1e-12 if model == "mlp" else values <= levels + 1e-12
        assert rows["share"].to_numpy() == pytest.approx(good.sum(axis=1) / len(own))
    lstm = told[(told["comparison"] == "lstm") & (told["treatment"] == "none")]
    assert set(lstm["share"]) == {0.0}


def test_a_title_names_no_strength_that_did_not_always_diverge() -> None:
    outcomes = {0.01: "dd", 0.1: "dc", 1.0: "dd", 10.0: "dd"}
    rows = [
        {
            "treatment": "gp",
            "quantity": "lambda",
            "strength": strength,
            "strengths": "",
            "seed": seed,
            "status": status,
        }
        for strength, ended in outcomes.items()
        for seed, status in enumerate({"d": "diverged", "c": "completed"}[letter] for letter in ended)
    ]
    comparison = ComparisonGroup(
        "lstm", "lstm", "test/loss", "min", "nats", pd.DataFrame(rows), Scale("log"), None
    )
    title = divergence._title(SimpleNamespace(comparisons=[comparison]))
    assert title == "lstm always diverges with gp at λ = 0.01 and gp at λ = 1 … 10"


def test_diverged_cells_stay_in_the_denominator_and_out_of_the_means(quick: Path) -> None:
    shares = table(quick, "divergence").set_index(["comparison", "treatment", "strength"])
    row = shares.loc[("lstm", "clip_norm", 5.0)]
    theirs = scipy_stats.binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert (row["diverged"], row["n"]) == (2, 3)
    assert (row["share_low"], row["share_high"]) == pytest.approx((theirs.low, theirs.high))
    means = table(quick, "strengths").set_index(["comparison", "treatment", "strength"])
    assert means.loc[("lstm", "clip_norm", 5.0), "completed"] == 1


def test_the_ranking_pairs_seeds_on_the_metrics_scale(quick: Path) -> None:
    cells = pd.read_parquet(quick / "cells")
    own = cells[(cells["model"] == "wgan") & (cells["regularizer"] == "gp")]
    grid = np.log(own.pivot_table(index="regularizer.lambda", columns="seed", values="test/wasserstein"))
    none = cells[(cells["model"] == "wgan") & (cells["regularizer"] == "none")].set_index("seed")
    best = grid.mean(axis=1).idxmin()
    change = (grid.loc[best] - np.log(none["test/wasserstein"])).mean()
    told = table(quick, "comparisons")
    row = told.set_index(["comparison", "treatment"]).loc[("wgan", "gp")]
    assert (row["rank"], float(row["chosen"])) == (1, best)
    assert row["mean"] == pytest.approx(np.exp(grid.loc[best].mean()))
    assert row["change"] == pytest.approx(np.expm1(change))
    chances = told[told["comparison"] == "wgan"]["probability_best"]
    assert chances.sum() == pytest.approx(1)
    assert chances.is_monotonic_decreasing


def test_the_action_table_says_what_pandas_says_of_the_curves(quick: Path) -> None:
    curves = pd.read_parquet(quick / "curves").merge(pd.read_parquet(quick / "cells"), on="cell")
    own = curves[(curves["model"] == "mlp") & (curves["regularizer.threshold"] == 0.5)]
    own = own[own["regularizer"] == "clip_norm"]
    ratio = np.log(own["grad_norm_used"] / own["grad_norm"]).groupby(own["cell"]).mean()
    row = (
        table(quick, "action")
        .set_index(["comparison", "treatment", "strength"])
        .loc[("mlp", "clip_norm", 0.5)]
    )
    assert row["clipped"] == pytest.approx(own.groupby("cell")["clipped"].mean().mean())
    assert row["ratio"] == pytest.approx(np.exp(ratio).mean())
    assert row["penalty_share"] == 0


def test_the_answers_find_the_effects_that_were_put_in(tmp_path: Path) -> None:
    synthetic.write(
        tmp_path, seeds=8, strengths=FEW | {"clip_norm": (0.1, 0.5)}, leaves={"model.margin": 0.01}
    )
    found = {answer.group: answer for answer in answers(tmp_path)}
    assert found["lstm"].verdict == "better"
    assert "clip_norm at" in found["lstm"].treatment
    assert "It diverged in 0 of 8 seeds, none in 8 of 8." in found["lstm"].sentence
    assert found["mlp"].verdict == "equal"
    assert found["mlp"].treatment == "none"
    assert "No treatment is more than 0.01 better than none" in found["mlp"].sentence
    assert found["wgan"].treatment == "gp at λ = 10"
    assert "lower [" in found["wgan"].sentence


def test_a_treatment_that_only_harms_leaves_the_gradients_alone(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "clip_norm": (1.0,)})
    cells = pd.read_parquet(tmp_path / "cells")
    cells.loc[cells["regularizer"] == "clip_norm", "test/wasserstein"] += 3.0
    cells.to_parquet(tmp_path / "cells" / "a.parquet")
    (answer,) = answers(tmp_path)
    assert (answer.treatment, answer.verdict) == ("none", "worse")


def test_the_page_answers_in_the_order_of_a_readers_questions(quick: Path) -> None:
    order = ["Answer", "Treatments", "Strengths", "Learning", "Gradients", "Divergence", "Cost", "Critic"]
    assert page(quick).headings == [*order, "Cells", "Audit"]


def test_the_page_needs_nothing_but_itself(quick: Path) -> None:
    seen = page(quick)
    sources = [str(image["src"]) for image in seen.of("img")]
    assert len(sources) == 10
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert all(image["alt"] for image in seen.of("img"))
    links = [str(link["href"]) for link in seen.of("a")]
    for link in links:
        assert link.startswith("#") or (quick / "report" / link).is_file()
    html = (quick / "report" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://", html.replace("http://www.w3.org", ""))
    assert not any("src" in script for script in seen.of("script"))


def embedded(folder: Path) -> dict[str, Any]:
    """Return the data that the page's script reads."""
    html = (folder / "report" / "index.html").read_text(encoding="utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    data: dict[str, Any] = json.loads(found)
    return data


def commands(data: dict[str, Any]) -> dict[str, str]:
    return {row[0]: " ".join(data["words"][place] for place in row[11]) for row in data["rows"]}


def test_every_cell_shows_the_command_that_reruns_it(quick: Path) -> None:
    cells = pd.read_parquet(quick / "cells")
    assert commands(embedded(quick)) == dict(zip(cells["cell"], cells["command"], strict=True))


def test_every_cell_shows_its_whole_config(quick: Path) -> None:
    data = embedded(quick)
    cells = load_results(quick).cells.set_index("cell")
    every = set(config_columns(cells))
    shared = {leaf for leaf in every if cells[leaf].astype(str).nunique() == 1}
    for cell, *_, seed, _, _, _, _, config, _, _, _, _ in data["rows"]:
        places = dict(zip(data["leaves"], data["configs"][config], strict=True))
        told = {leaf: data["words"][place] for leaf, place in places.items() if place >= 0}
        known = cells.loc[cell, [*places]].dropna().to_dict()
        assert told.keys() == known.keys()
        for leaf, value in known.items():
            assert told[leaf] == value if isinstance(value, str) else float(told[leaf]) == value
        assert seed == cells.loc[cell, "seed"]
        assert {*places, *shared, "seed"} == every


def heights(line: list[Any]) -> list[float]:
    """Return the points of a sketch's line as the page's script reads them; nan where there is none."""
    low, high, log, letters = line
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    pairs = zip(letters[::2], letters[1::2], strict=True)
    levels = [alphabet.index(a) * 64 + alphabet.index(b) for a, b in pairs]
    values = [np.nan if level == 4095 else low + (high - low) * level / 4094 for level in levels]
    return [10**value for value in values] if log else values


def test_the_curves_in_the_page_are_the_means_that_pandas_takes(quick: Path) -> None:
    curves = pd.read_parquet(quick / "curves")
    for row in embedded(quick)["rows"][::7]:
        last, loss, *_ = row[13]
        own = curves[curves["cell"] == row[0]]
        assert last == own["step"].max()
        logs = np.log(own["loss"]) if loss[2] else own["loss"]  # fewer steps than points: each is its own
        assert heights(loss) == pytest.approx(np.exp(logs) if loss[2] else logs, rel=0.01, abs=1e-3)


def test_long_curves_are_averaged_over_even_spans() -> None:
    step = np.arange(1, 1001)
    rows = pd.DataFrame({"cell": "a", "step": step, "loss": 1000.0 + step, "grad_norm": 10.0 ** (step / 100)})
    rows["grad_norm_used"] = rows["grad_norm"].where(step % 2 == 0, np.inf)
    found = encode_curves(rows.assign(m=np.nan), {"a": "m"}, 10)["a"]
    assert heights(list(found.loss or ())) == pytest.approx(1000 + np.arange(50.5, 1000, 100), abs=1)
    geometric = [10.0 ** (k + 0.505) for k in range(10)]
    assert heights(list(found.grad_norm or ())) == pytest.approx(geometric, rel=1e-2)
    assert found.grad_norm_used is not None  # steps that are not finite are left out, not drawn as zero
    assert found.metric is None


def test_every_figure_exists_as_png_and_as_svg_with_text(quick: Path) -> None:
    pictures = sorted((quick / "report" / "figures").iterdir())
    names = {
        "strengths",
        "profiles",
        "learning",
        "gradients",
        "action",
        "penalty",
        "histograms",
        "divergence",
        "cost",
        "critic",
    }
    narrow = {f"{name}.narrow" for name in names}
    assert {picture.stem for picture in pictures if picture.suffix == ".png"} == names | narrow
    assert {picture.stem for picture in pictures if picture.suffix == ".svg"} == names
    assert "<text" in (quick / "report" / "figures" / "strengths.svg").read_text(encoding="utf-8")


def test_the_same_tables_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        monkeypatch.chdir(tmp_path / name)
        folder = Path("same")
        synthetic.write(folder, models=["mlp"], strengths={"none": (), "gp": (1.0,)}, steps=8)
        report = build(folder).page.parent
        reports.append({path.relative_to(report): path.read_bytes() for path in report.rglob("*.*")})
    assert reports[0] == reports[1]


def test_names_from_the_tables_cannot_become_markup(tmp_path: Path) -> None:
    strengths = {"none": (), "clip_norm": (1.0,), "gp": (1.0,)}
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=strengths, statuses={"gp": "failed"})
    hostile = dict.fromkeys(("model", "model.unit", "data", "device", "error", "command", "torch"), EVIL)
    cells.assign(**hostile).replace({"regularizer": {"clip_norm": EVIL}}).to_parquet(
        tmp_path / "cells" / "a.parquet"
    )
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"experiment": EVIL, "question": EVIL}))
    build(tmp_path)
    seen = page(tmp_path)
    assert len(seen.of("script")) == 2  # the data, which is not run, and ours
    assert any(EVIL in words for words in seen.words)
    assert EVIL in embedded(tmp_path)["words"]
    assert "<script" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


DEGENERATE: dict[str, dict[str, Any]] = {
    "one cell": {"models": ["wgan"], "seeds": 1, "strengths": {"none": ()}},
    "one seed, one strength": {"models": ["mlp"], "seeds": 1, "strengths": {"none": (), "clip_norm": (1.0,)}},
    "all diverged": {"models": ["mlp"], "strengths": FEW, "statuses": {"*": "diverged"}},
    "a treatment diverged": {
        "models": ["wgan"],
        "strengths": {"none": (), "gp": (1.0,)},
        "statuses": {"gp": "diverged"},
    },
    "all failed": {"models": ["mlp"], "strengths": FEW, "statuses": {"*": "failed"}},
    "no none": {"models": ["mlp"], "strengths": {"clip_norm": (0.1, 1.0)}},
    "strengths at the ends and none at all": {"models": ["mlp"], "seeds": 2, "strengths": ODD},
}


@in_suites("name", [("one cell",), ("a treatment diverged",)], [(name,) for name in DEGENERATE])
@pytest.mark.usefixtures("drawn")
def test_a_degenerate_folder_gets_a_page_and_an_answer(name: str, tmp_path: Path) -> None:
    given = DEGENERATE[name]
    synthetic.write(tmp_path, steps=12, **given)
    assert build(tmp_path).page.is_file()
    assert [answer.group for answer in answers(tmp_path)] == given["models"]


def test_models_that_went_differently_share_a_page(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["lstm"], strengths={"none": ()}, steps=12, part="a")
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "gp": (1.0,)}, steps=12, part="b")
    build(tmp_path)
    found = {answer.group: answer for answer in answers(tmp_path)}
    assert found["lstm"].advice == "Undecided: every run diverged"
    assert found["mlp"].sentence.startswith("No treatment is more than 0.01 better")


def test_a_part_that_cannot_be_read_is_named_beside_the_answers(tmp_path: Path) -> None:
    for part in ("a", "b"):
        synthetic.write(tmp_path, models=["mlp"], strengths=FEW, steps=6, part=part)
    whole = (tmp_path / "cells" / "b.parquet").read_bytes()
    (tmp_path / "cells" / "b.parquet").write_bytes(whole[:100])
    (remark,) = build(tmp_path).remarks
    assert remark.startswith(f"left out: {tmp_path / 'cells' / 'b.parquet'} is damaged")


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["lstm", "mlp"], strengths=FEW, seeds=1, steps=6)
    assert {answer.verdict for answer in answers(tmp_path)} == {"undecided"}


def test_cells_without_curves_arrays_and_provenance_still_get_a_report(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path / "full", models=["wgan"], strengths=FEW)
    provenance = [
        "gradbench",
        "torch",
        "python",
        "device",
        "started",
        "finished",
        "command",
        "step_seconds",
        "error",
    ]
    (tmp_path / "bare" / "cells").mkdir(parents=True)
    cells.drop(columns=[*provenance, "model.unit"]).to_parquet(tmp_path / "bare" / "cells" / "a.parquet")
    build(tmp_path / "bare")
    assert commands(embedded(tmp_path / "bare"))[cells["cell"][0]] == f"gradbench show {cells['cell'][0]}"


def test_learning_rates_in_one_folder_are_compared_apart(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, leaves={"optimizer.lr": 0.1}, part="a")
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, leaves={"optimizer.lr": 1.0}, part="b")
    assert [answer.group for answer in answers(tmp_path)] == [
        "mlp (lr=0.1)",
        "mlp (lr=1)",
        "mlp, any learning rate",
    ]
    assert "kept apart" not in warnings_of(tmp_path), "they were asked for"
    other = pd.read_parquet(tmp_path / "cells/b.parquet").assign(data_sha256="e" * 64)
    other["cell"] = [f"{row:016x}" for row in range(len(other))]
    other.to_parquet(tmp_path / "cells/c.parquet")
    assert "mlp was run in 3 ways, kept apart" in warnings_of(tmp_path), (
        "nobody asks for other data under one name"
    )


def test_metrics_of_ones_own_that_are_not_compared_are_in_a_table_of_the_page(tmp_path: Path) -> None:
    own = {"model.metrics.top3": "a.f", "test/top3": 0.75, "train/top3": 1.0}
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, change=own)
    build(tmp_path)
    table = pd.read_csv(tmp_path / "report/tables/metrics.csv")
    assert set(table["metric"]) == {"test/top3", "train/top3"}, "test/accuracy is compared"
    assert len(table) == 2 * 5, "none, two thresholds, two lambdas"
    assert set(table.loc[table["metric"] == "test/top3", "mean"]) == {0.75}
    page = (tmp_path / "report/index.html").read_text()
    assert page.index("Further metrics") < page.index("test/top3")


def test_a_report_without_further_metrics_has_no_section_for_them(quick: Path) -> None:
    assert not (quick / "report/tables/metrics.csv").exists()
    assert "Further metrics" not in (quick / "report/index.html").read_text()


NOW = {
    "accumulate": 1,
    "schedule": "constant",
    "schedule._target_": "gradbench.optimizers.schedules.constant",
    "optimizer.weight_decay": 0.0,
    "optimizer.decoupled": False,
}
"""Leaves that cells of before lack."""


def test_cells_of_before_are_compared_with_those_of_now(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, part="a")
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, part="b", seeds=6, leaves=NOW)
    assert set(load_results(tmp_path).cells["comparison"]) == {"mlp"}
    cosine = {"schedule": "cosine", "schedule._target_": "x.cosine", "schedule.steps": 300, "accumulate": 4}
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, part="c", leaves=NOW | cosine)
    assert set(load_results(tmp_path).cells["comparison"]) == {
        "mlp (accumulate=1, schedule=constant)",
        "mlp (accumulate=4, schedule=cosine)",
    }


def test_the_steps_of_a_schedule_follow_from_those_of_training(tmp_path: Path) -> None:
    for steps in (300, 400):
        own = NOW | {"schedule": "cosine", "schedule.steps": steps, "steps": steps}
        synthetic.write(tmp_path, models=["mlp"], strengths=FEW, part=str(steps), leaves=own)
    assert set(load_results(tmp_path).cells["comparison"]) == {"mlp (steps=300)", "mlp (steps=400)"}


def test_what_follows_from_an_option_does_not_name_a_comparison(tmp_path: Path) -> None:
    wine = {"data": "wine", "data.kind": None, "data.scale": 1.0}
    mixture = {"data": "gaussians8", "data.kind": "gaussians8", "data.scale": 1.0}
    for part, own in (("a", wine), ("b", mixture)):
        synthetic.write(tmp_path, models=["wgan"], strengths=FEW, leaves=own, part=part)
    assert set(load_results(tmp_path).cells["comparison"]) == {"wgan (data=wine)", "wgan (data=gaussians8)"}
    synthetic.write(
        tmp_path, models=["wgan"], strengths=FEW, leaves=wine | {"data.scale": 2.0}, part="another scale"
    )
    assert set(load_results(tmp_path).cells["comparison"]) == {
        "wgan (data=wine, scale=1)",
        "wgan (data=wine, scale=2)",
        "wgan (data=gaussians8, scale=1)",
    }


def network(name: str, **more: object) -> dict[str, object]:
    """Return the columns of cells that were given a network; each name has a source of its own."""
    return {"model.network": name, "model.network._source_sha256": name.encode().hex()} | more


def comparisons(folder: Path, *leaves: dict[str, object]) -> set[str]:
    for place, own in enumerate(leaves):
        synthetic.write(folder, models=["mlp"], strengths=FEW, leaves=own, part=str(place))
    return set(load_results(folder).cells["comparison"])


def test_networks_name_comparisons_by_their_own_names_and_not_by_what_follows_from_them(
    tmp_path: Path,
) -> None:
    mine = network("my_pkg.Net", **{"model.network.width": 3})
    assert comparisons(tmp_path / "a", mine, network("my_pkg.Other")) == {
        "mlp (network=Net)",
        "mlp (network=Other)",
    }
    assert comparisons(tmp_path / "b", mine, network("my_pkg.parts.Net")) == {
        "mlp (network=my_pkg.Net)",
        "mlp (network=parts.Net)",
    }


def test_an_edited_network_is_another_comparison_and_named_by_the_first_digits_of_its_source(
    tmp_path: Path,
) -> None:
    before, after = (network("my_pkg.Net") | {"model.network._source_sha256": 8 * d} for d in ("01", "23"))
    assert comparisons(tmp_path, before, after) == {"mlp (network=01010101)", "mlp (network=23232323)"}


def test_long_values_that_begin_alike_do_not_merge_comparisons(tmp_path: Path) -> None:
    paths = ["a" * 30 + end for end in "xy"]
    assert comparisons(tmp_path, *({"data.path": path} for path in paths)) == {
        f"mlp (path={path})" for path in paths
    }


def test_groups_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for depth in (16, 2, 8):
        leaves = {"model.depth": depth}
        synthetic.write(tmp_path, models=["mlp"], strengths=FEW, leaves=leaves, part=str(depth))
    assert [answer.group for answer in answers(tmp_path)] == [f"mlp (depth={depth})" for depth in (2, 8, 16)]


def test_options_of_a_regularizer_are_treatments_of_their_own(tmp_path: Path) -> None:
    for part, sided in (("a", "one"), ("b", "two")):
        synthetic.write(
            tmp_path, models=["mlp"], strengths={"gp": (1.0,)}, leaves={"regularizer.sided": sided}, part=part
        )
    assert sorted(load_results(tmp_path).cells["treatment"].unique()) == ["gp (sided=one)", "gp (sided=two)"]


def test_options_that_only_follow_the_model_are_not_part_of_a_treatments_name(tmp_path: Path) -> None:
    for model, center in (("mlp", 0.0), ("wgan", 1.0)):
        leaves = {"regularizer.center": center}
        synthetic.write(tmp_path, models=[model], strengths={"gp": (1.0,)}, leaves=leaves, part=model)
    assert set(load_results(tmp_path).cells["treatment"]) == {"gp"}


def test_every_treatment_looks_different_and_a_known_one_always_the_same(tmp_path: Path) -> None:
    names: dict[str, tuple[float, ...]] = dict.fromkeys(("none", "mine", "yours", "ours"), ())
    synthetic.write(tmp_path, models=["mlp"], strengths={**names, "clip_norm": (1.0,), "gp": (1.0,)}, steps=6)
    found = assign_looks(list_comparisons(load_results(tmp_path)))
    assert len({(look.marker, look.dash) for look in found.values()}) == len(found)
    assert found["clip_norm"].color == "#0072B2"


def test_a_treatment_takes_the_hue_of_its_family(tmp_path: Path) -> None:
    leaves = {"regularizer.family": "projection"}
    synthetic.write(tmp_path, models=["mlp"], strengths={"mine": ()}, leaves=leaves, steps=6)
    red, green, blue = (
        int(assign_looks(list_comparisons(load_results(tmp_path)))["mine"].color[i : i + 2], 16)
        for i in (1, 3, 5)
    )
    assert green > max(red, blue)


def test_parts_may_differ_in_their_columns(tmp_path: Path) -> None:
    for model in ("lstm", "mlp"):
        cells = synthetic.write(tmp_path, models=[model], strengths=FEW, part=model)
        cells.dropna(axis="columns", how="all").to_parquet(tmp_path / "cells" / f"{model}.parquet")
    assert len(load_results(tmp_path).cells) == 30


def test_a_file_still_being_written_is_not_read(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=FEW)
    (tmp_path / "cells" / ".b.parquet").write_bytes(b"half")
    (tmp_path / "cells" / "b.parquet.tmp").write_bytes(b"half")
    assert len(load_results(tmp_path).cells) == len(cells)


def test_a_retried_cell_counts_once_and_by_its_later_outcome(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, statuses={"gp": "failed"}, part="b")
    synthetic.write(tmp_path, models=["mlp"], strengths=FEW, part="a")
    results = load_results(tmp_path)
    assert results.cells["cell"].is_unique
    assert set(results.cells["status"]) == {"completed"}


def warnings_of(folder: Path) -> str:
    results = load_results(folder)
    notes = scan_curves(folder, results.cells, (), 0).notes
    return "\n".join(
        found.text for found in audit(results, list_comparisons(results), notes) if found.warning
    )


def test_the_audit_is_silent_about_a_clean_folder(quick: Path) -> None:
    assert not warnings_of(quick)


def test_the_audit_warns_about_a_mixed_folder(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()}, part="a")
    synthetic.write(
        tmp_path, models=["mlp"], strengths={"clip_norm": (1.0,)}, seeds=2, part="b",
        change={"torch": "2.7.0", "device": "cuda"}, statuses={"clip_norm": "failed"},
    )  # fmt: skip
    said = warnings_of(tmp_path)
    for words in ("several values of torch", "several values of device", "2 cells failed", "misses 1 cell"):
        assert words in said


def test_a_missing_folder_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gradbench run quick"):
        build(tmp_path / "nowhere")


def test_an_empty_folder_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gradbench run quick"):
        build(tmp_path)


def test_the_folder_above_an_experiment_names_the_experiment(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "quick", models=["mlp"], strengths={"none": ()})
    with pytest.raises(UsageError, match=r"did you mean .*quick"):
        build(tmp_path)


@pytest.mark.parametrize("victim", ["cells/b.parquet", "curves/a.parquet", "experiment.yaml"])
def test_a_damaged_file_is_named_and_the_rest_reported(tmp_path: Path, victim: str) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()})
    (tmp_path / victim).write_bytes(b"\xff\xfe: [half")
    assert str(tmp_path / victim) in warnings_of(tmp_path)


def test_where_every_part_is_damaged_the_report_says_what_to_type(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": ()})
    (tmp_path / "cells/a.parquet").write_bytes(b"\xff\xfe: [half")
    with pytest.raises(UsageError, match=r"a\.parquet is damaged .*type the command that made it"):
        build(tmp_path)


def test_cells_of_something_else_are_refused_by_column(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    pd.DataFrame({"cell": ["a"], "model": ["mlp"]}).to_parquet(tmp_path / "cells" / "a.parquet")
    with pytest.raises(UsageError, match=r"model\.metric"):
        build(tmp_path)


@given(st.floats(allow_nan=False, width=32), st.integers(1, 5))
def test_no_number_is_written_as_minus_zero(value: float, digits: int) -> None:
    written = format_number(value, digits)
    assert (written.startswith("−")) == (value < 0)
    assert format_number(-0.0, digits) == "0"


def test_words_sort_by_the_numbers_in_them() -> None:
    words = ["a (lr=10)", "a (lr=1e-3)", "a (lr=0.5)", "a", "a (lr=2)"]
    ordered = ["a", "a (lr=1e-3)", "a (lr=0.5)", "a (lr=2)", "a (lr=10)"]
    assert sorted(words, key=natural_key) == ordered


def test_a_report_never_imports_torch() -> None:
    code = "import sys, gradbench.report, gradbench.stats.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.floats(-5, 5), st.floats(0.01, 8))
def test_a_ratio_is_written_so_that_both_ends_keep_their_size(middle: float, spread: float) -> None:
    ends = np.exp([middle, middle - spread, middle + spread])
    written = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]×", format_ratio(Interval(*ends, 8)))
    assert written
    for given_end, word in zip(ends, written.groups(), strict=True):
        assert float(word.replace(",", "").replace("−", "-")) == pytest.approx(given_end, rel=0.06)


@given(st.floats(-5, 5), st.floats(1.2, 8), st.sampled_from([1, -1]))
def test_an_interval_over_more_than_a_factor_of_ten_keeps_the_size_of_both_ends(
    middle: float, spread: float, sign: int
) -> None:
    ends = sign * np.exp([middle, middle - sign * spread, middle + sign * spread])
    written = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", format_interval(Interval(*ends, 8)))
    assert written
    for given_end, word in zip(ends, written.groups(), strict=True):
        assert float(word.replace(",", "").replace("−", "-")) == pytest.approx(given_end, rel=0.06)


# ---- compositions ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of none, clip_norm and gp alone, and of gp+clip_norm, which is best at (10, 0.1)."""
    folder = tmp_path_factory.mktemp("results") / "composed"
    synthetic.write(folder, models=["wgan"], strengths=FEW, seeds=10)
    synthetic.write_pairs(
        folder, "gp+clip_norm", ("gp.lambda", (1.0, 10.0)), ("clip_norm.threshold", (0.1, 2.0, 10.0)), (10.0, 0.1),
        models=["wgan"], seeds=10,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "SECTIONS", {"Strengths": figures.SECTIONS["Strengths"]})
        build(folder)
    return folder


def test_a_composition_is_one_treatment_with_a_setting_per_pair_of_strengths(composed: Path) -> None:
    told = table(composed, "strengths")
    own = told[told["treatment"] == "gp+clip_norm"]
    pairs = list(zip(own["regularizer.gp.lambda"], own["regularizer.clip_norm.threshold"], strict=True))
    assert pairs == [(a, b) for a in (1.0, 10.0) for b in (0.1, 2.0, 10.0)], "as numbers are ordered"
    assert list(own["setting"])[:2] == ["gp λ = 1 + clip_norm 0.1", "gp λ = 1 + clip_norm 2"]
    assert own["strength"].isna().all()
    assert set(own["completed"]) == {10}
    cells = table(composed, "cells")
    for (a, b), mean in zip(pairs, own["mean"], strict=True):
        chosen = (cells["regularizer.gp.lambda"] == a) & (cells["regularizer.clip_norm.threshold"] == b)
        assert mean == pytest.approx(np.exp(np.log(cells.loc[chosen, "value"]).mean()))
    alone = told[told["treatment"] != "gp+clip_norm"]
    assert alone[["regularizer.gp.lambda", "regularizer.clip_norm.threshold"]].isna().all(axis=None)


def test_the_answer_names_the_pair_of_strengths(composed: Path) -> None:
    (answer,) = answers(composed)
    assert answer.treatment == "gp λ = 10 + clip_norm 0.1"
    row = table(composed, "comparisons").set_index("treatment").loc["gp+clip_norm"]
    assert row["chosen"] == "10.0,0.1"
    assert row["verdict"] == "better"
    written = page(composed).words
    assert "gp λ = 10 + clip_norm 0.1" in written


def test_a_heat_map_has_the_mean_of_each_pair_and_other_figures_the_single_ones(
    composed: Path, quick: Path
) -> None:
    folder = composed / "report" / "figures"
    drawn = (folder / "pairs.svg").read_text(encoding="utf-8")
    told = table(composed, "strengths").set_index("treatment").loc["gp+clip_norm"]
    for mean in told["mean"]:
        assert f">{format_number(mean)}<" in drawn
    alone = table(composed, "strengths").set_index(["treatment", "strength"])["mean"]
    shown = drawn.count(">without<")
    assert shown == 2, "a line and a column of what each part does alone"
    assert f">{format_number(alone['gp', 10.0])}<" in drawn
    assert f">{format_number(alone['clip_norm', 0.1])}<" in drawn
    assert "gp λ = 10 + clip_norm 0.1 for wgan" in drawn
    single = (folder / "strengths.svg").read_text(encoding="utf-8")
    assert all(name in single for name in ("clipping threshold", "penalty weight λ", "▲ gp", "● clip_norm"))
    assert "gp+clip_norm<" not in single
    assert not (quick / "report" / "figures" / "pairs.svg").exists()


def test_options_that_vary_are_named_beside_a_composition_and_strengths_are_not(tmp_path: Path) -> None:
    for center in (0.0, 1.0):
        synthetic.write(
            tmp_path,
            models=["wgan"],
            strengths={"gp+clip_norm": ()},
            leaves={
                "regularizer.strength": "gp.lambda+clip_norm.threshold",
                "regularizer.gp.lambda": 1.0,
                "regularizer.clip_norm.threshold": 2.0,
                "regularizer.gp.center": center,
            },
            part=str(center),
        )
    (comparison,) = list_comparisons(load_results(tmp_path))
    assert comparison.treatments == ["gp+clip_norm (center=0)", "gp+clip_norm (center=1)"]
    assert {setting.strengths for setting in comparison.settings} == {(1.0, 2.0)}


# ---- what must not be mixed up ---------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [np.inf, np.nan])
def test_a_cell_whose_last_metric_is_no_number_is_diverged_in_tables_and_answers(
    last: float, tmp_path: Path
) -> None:
    cells = synthetic.write(
        tmp_path, models=["wgan"], strengths={"none": (), "gp": (10.0,)}, seeds=4, steps=12
    )
    cells.loc[cells["regularizer"].eq("gp") & cells["seed"].eq(2), "test/wasserstein"] = last
    cells.to_parquet(tmp_path / "cells" / "a.parquet", index=False)
    build(tmp_path)
    written = table(tmp_path, "cells").set_index(["treatment", "seed"])
    assert written.loc[("gp", 2), "status"] == "diverged"
    assert written.loc[("gp", 2), "diverged_at"] == 12
    assert table(tmp_path, "strengths").set_index("treatment").loc[
        "gp", ["completed", "diverged"]
    ].tolist() == [3, 1]
    assert table(tmp_path, "divergence").set_index("treatment").loc["gp", "diverged"] == 1
    (answer,) = answers(tmp_path)
    assert answer.numbers["diverged"] == 1
    assert "It diverged in 1 of 4 seeds, none in 0 of 4." in answer.sentence


@pytest.mark.parametrize("values", [("x", "y"), ("x" + "b" * 60, "y" + "b" * 60)])
@pytest.mark.parametrize("key", ["regularizer.how", "model.how"])
def test_values_that_agree_in_their_first_letters_are_rows_of_their_own(
    key: str, values: tuple[str, str], tmp_path: Path
) -> None:
    for part, end in enumerate(values):
        leaves = {key: "a" * 40 + end}
        synthetic.write(tmp_path, models=["mlp"], strengths={"gp": (1.0,)}, leaves=leaves, part=str(part))
    found = list_comparisons(load_results(tmp_path))
    assert len({(group.label, setting) for group in found for setting in group.settings}) == 2
    looks = assign_looks(found)
    labels = {end_label(name, looks[name], NARROW) for name in looks}
    assert len(labels) == len({name for group in found for name in group.treatments})


def test_a_key_that_was_not_given_is_never_nan(tmp_path: Path) -> None:
    for part, leaves in enumerate(({"regularizer.turns": 3.0}, {})):
        synthetic.write(tmp_path, models=["mlp"], strengths={"gp": (1.0,)}, leaves=leaves, part=str(part))
    (group,) = list_comparisons(load_results(tmp_path))
    assert sorted(group.treatments) == ["gp (turns not given)", "gp (turns=3)"]


def test_hashes_are_letters_and_left_out_where_other_values_tell_the_cells_apart(tmp_path: Path) -> None:
    for part, (rate, data) in enumerate(((0.1, "a"), (0.1, "b"), (0.2, "a"))):
        synthetic.write(
            tmp_path, models=["mlp"], strengths=FEW, leaves={"optimizer.lr": rate},
            change={"data_sha256": data * 64}, part=str(part),
        )  # fmt: skip
        cells = pd.read_parquet(tmp_path / "cells" / f"{part}.parquet")
        cells["cell"] = [f"{part}{row:015x}" for row in range(len(cells))]
        cells.to_parquet(tmp_path / "cells" / f"{part}.parquet", index=False)
    assert set(load_results(tmp_path).cells["comparison"]) == {
        "mlp (lr=0.1, data A)",
        "mlp (lr=0.1, data B)",
        "mlp (lr=0.2, data A)",
    }


def test_a_strength_and_a_swept_key_share_a_heat_map_that_marks_the_best_and_counts_the_diverged(
    tmp_path: Path, drawn: Callable[..., None]
) -> None:
    drawn("Strengths")
    for part, rate in enumerate((0.01, 0.1, 1.0)):
        cells = synthetic.write(
            tmp_path, models=["wgan"], strengths=FEW, leaves={"optimizer.lr": rate}, part=str(part), steps=12
        )
        own = cells["regularizer"].eq("gp") & cells["regularizer.lambda"].eq(1.0)
        cells.loc[own, "test/wasserstein"] *= 0.01 if rate == 0.1 else 1.0
        lost = own & cells["seed"].eq(0) & (rate == 1.0)
        cells.loc[lost, ["status", "test/wasserstein"]] = "diverged", np.nan
        cells.to_parquet(tmp_path / "cells" / f"{part}.parquet", index=False)
    build(tmp_path)
    drawn = (tmp_path / "report" / "figures" / "keys.svg").read_text(encoding="utf-8")
    assert "gp at λ = 1 for wgan (lr=0.1)" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert drawn.count(">1/3 div.<") == 1
    told = table(tmp_path, "strengths")
    for mean in told["mean"]:
        assert f">{format_number(mean)}<" in drawn
    (gp,) = (one for one in map_keys(list_comparisons(load_results(tmp_path))) if one.title == "gp")
    assert gp.labels == (["none", "1", "10"], ["0.01", "0.1", "1"])
    assert gp.best == (1, 1)
