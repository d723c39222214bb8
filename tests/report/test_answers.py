"""Answers: numbers and commands, of results whose effects were put in."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
import yaml

from gradbench.report import answer_table, answers
from gradbench.report.analysis.comparison import list_comparisons
from gradbench.report.load.cells import load_results
from gradbench.report.render.contents import ANSWERS, RANKED
from gradbench.stats.decisions import BETTER, LEAVE_ALONE, UNDECIDED, seeds_to_decide
from gradbench.storage.grids import OTHERS

GP = {"none": (), "gp": (0.1, 1.0, 10.0)}


def table(folder: Path) -> pd.DataFrame:
    return answer_table(answers(folder)).set_index("group")


def words_of(command: str) -> dict[str, str]:
    """Return the keys and options of a command."""
    words = shlex.split(command)
    found = dict(word.split("=", 1) for word in words if "=" in word)
    return found | {word: words[place + 1] for place, word in enumerate(words) if word.startswith("--")}


def test_a_best_strength_at_the_end_of_its_axis_asks_to_go_on_by_the_factor_of_the_axis(
    tmp_path: Path,
) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths=GP, seeds=8)  # the effect is largest at 10
    (row,) = table(tmp_path).to_dict("records")
    assert (row["verdict"], row["strength"]) == ("better", 10.0)
    words = words_of(row["command"])
    assert words["regularizer.lambda"] == "100,1000"
    assert words["seed"] == "range(8)"
    assert words["model"] == "wgan"
    assert words["--results"] == str(tmp_path)


def test_a_best_strength_within_its_axis_asks_for_nothing(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (1.0, 10.0, 100.0)}, seeds=8)
    (row,) = table(tmp_path).to_dict("records")
    assert (row["verdict"], row["strength"]) == ("better", 10.0)
    assert not row["command"]


def test_what_is_open_asks_for_the_seeds_that_would_decide(tmp_path: Path) -> None:
    synthetic.write(
        tmp_path, models=["lstm"], strengths={"none": (), "gp": (0.1, 1.0)}, statuses={"*": "completed"}
    )
    (row,) = table(tmp_path).to_dict("records")
    (group,) = list_comparisons(load_results(tmp_path))
    none, *treated = (np.log(group.cells_at(setting)["value"].to_numpy()) for setting in group.settings)
    assert row["verdict"] == "undecided"
    count = seeds_to_decide(treated, none, group.margins(np.exp(none.mean())))
    assert words_of(row["command"]) == {"seed": f"range({count})", "--results": str(tmp_path)}
    assert row["command"].startswith("gradbench run quick ")


def test_settings_without_none_are_compared_with_each_other(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths={"gp": (1.0, 10.0, 100.0)}, seeds=8)
    (row,) = table(tmp_path).to_dict("records")
    assert (row["verdict"], row["strength"]) == ("better", 10.0)
    assert np.isnan(row["change"])


def test_settings_without_none_ask_for_none_and_go_on_from_the_end_of_the_axis_in_one_command(
    tmp_path: Path,
) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths={"gp": (0.1, 1.0, 10.0)}, seeds=8)
    (row,) = table(tmp_path).to_dict("records")
    words = words_of(row["command"])
    assert (words["regularizer"], words["regularizer.lambda"]) == ("none,gp", "100,1000")
    synthetic.write(tmp_path, models=["wgan"], strengths={"gp": (1.0, 10.0, 100.0)}, seeds=8)
    (row,) = table(tmp_path).to_dict("records")
    words = words_of(row["command"])
    assert (words["regularizer"], words["regularizer.lambda"]) == ("none,gp", "10.0")
    assert words["seed"] == "range(8)"


def test_without_a_common_seed_nothing_is_compared_and_the_command_pairs_the_seeds(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["wgan"], strengths={"none": (), "gp": (10.0,)}, seeds=6)
    kept = cells[cells["seed"].lt(3).eq(cells["regularizer"].eq("none"))]
    kept.to_parquet(tmp_path / "cells" / "a.parquet")
    (row,) = table(tmp_path).to_dict("records")
    assert row["verdict"] == "undecided"
    assert row["sentence"] == "No seed has both gp and none: they are compared at equal seeds."
    words = words_of(row["command"])
    assert (words["regularizer"], words["seed"]) == ("none", "range(3,6)")


def test_more_seeds_are_asked_of_the_command_that_trained_all_treatments(tmp_path: Path) -> None:
    synthetic.write(
        tmp_path, models=["lstm"], strengths={"none": (), "gp": (0.1, 1.0)}, statuses={"*": "completed"}
    )
    spec = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    whole, part = (f"gradbench run model=lstm regularizer={names}" for names in ("none,gp", "gp"))
    spec |= {"command": whole, OTHERS: [{"command": part}]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(spec))
    (row,) = table(tmp_path).to_dict("records")
    assert words_of(row["command"])["regularizer"] == "none,gp"


def test_where_all_seeds_have_the_best_value_there_is_nothing_to_gain(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=GP, seeds=8)
    cells.assign(**{"test/accuracy": 1.0}).to_parquet(tmp_path / "cells" / "a.parquet")
    (row,) = table(tmp_path).to_dict("records")
    assert (row["verdict"], row["treatment"]) == ("equal", "none")


@pytest.mark.parametrize(("seeds", "known"), [(5, False), (6, True)])
def test_a_mean_of_few_values_that_agree_has_no_interval(tmp_path: Path, seeds: int, known: bool) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "gp": (1.0,)}, seeds=seeds)
    cells.assign(**{"test/accuracy": 0.5}).to_parquet(tmp_path / "cells" / "a.parquet")
    (row,) = table(tmp_path).to_dict("records")
    assert row["none"] == pytest.approx(0.5)
    assert np.isfinite(row["none_low"]) == known


def test_where_a_metric_of_ones_own_makes_all_runs_diverged_it_is_named(tmp_path: Path) -> None:
    leaves = {"model.metric": "test/z", "model.metrics.z": "scores.z"}
    synthetic.write(tmp_path, models=["mlp"], strengths=GP, statuses={"*": "diverged"}, leaves=leaves)
    (row,) = table(tmp_path).to_dict("records")
    assert "look at model.metrics.z" in row["sentence"]


def test_over_learning_rates_none_is_taken_at_its_best_rate(tmp_path: Path) -> None:
    for part, rate, shift in (("a", 0.1, 3.0), ("b", 1.0, 1.0)):
        cells = synthetic.write(
            tmp_path, models=["wgan"], strengths=GP, seeds=8, leaves={"optimizer.lr": rate}, part=part
        )
        cells["test/wasserstein"] *= shift
        cells.to_parquet(tmp_path / "cells" / f"{part}.parquet")
    told = table(tmp_path)
    assert list(told.index) == ["wgan (lr=0.1)", "wgan (lr=1)", "wgan, any learning rate"]
    over, best = told.loc["wgan, any learning rate"], told.loc["wgan (lr=1)"]
    assert over["verdict"] == "better"
    assert over["none"] == pytest.approx(best["none"])
    assert (over["strength"], over["estimate"]) == (best["strength"], pytest.approx(best["estimate"]))


def test_an_answer_says_how_many_steps_were_touched_and_the_learning_rate_that_was_left(
    tmp_path: Path,
) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "clip_norm": (0.5,)}, seeds=8)
    (row,) = table(tmp_path).to_dict("records")
    curves = pd.read_parquet(tmp_path / "curves").merge(pd.read_parquet(tmp_path / "cells"), on="cell")
    own = curves[curves["regularizer"] == "clip_norm"]
    assert row["touched"] == pytest.approx((own["clipped"] > 0).groupby(own["cell"]).mean().mean())
    kept = np.exp(np.log(own["grad_norm_used"] / own["grad_norm"]).groupby(own["cell"]).mean()).mean()
    assert row["effective_lr"] == pytest.approx(0.05 * kept)


@pytest.mark.parametrize(("margin", "verdict"), [(0.05, "equal"), (1e-5, "undecided"), (None, "undecided")])
def test_treatments_are_equal_within_the_margin_that_the_cells_name(
    tmp_path: Path, margin: float | None, verdict: str
) -> None:
    leaves = {"model.scale": "logit", "model.margin": margin}
    synthetic.write(tmp_path, models=["mlp"], strengths=GP, seeds=8, leaves=leaves)
    assert table(tmp_path)["verdict"].tolist() == [verdict]


def test_no_interval_leaves_the_range_of_its_metric(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, strengths=GP, seeds=3)
    shares = np.random.default_rng(0).uniform(0.3, 1.05, len(cells)).clip(max=1)
    cells["test/accuracy"] = np.where(cells["model"] == "mlp", shares, np.nan)
    cells["test/wasserstein"] **= 9
    cells.to_parquet(tmp_path / "cells" / "a.parquet")
    told = table(tmp_path)
    for name in ("estimate", "none"):
        ends = told[[name, f"{name}_low", f"{name}_high"]]
        assert (ends.dropna() >= 0).all(axis=None)
        assert (ends.loc["mlp"] <= 1).all()
    changed = told.loc["mlp", ["change_low", "change", "change_high"]].to_numpy(dtype=float)
    assert (told.loc["mlp", "none"] + changed <= 1).all()
    assert (told.loc["mlp", "none"] + changed >= 0).all()
    assert (told["change_low"].drop("mlp").dropna() >= -1).all()


def test_a_command_that_is_none_is_not_changed_to_one(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["wgan"], strengths=GP, seeds=8)
    cells.assign(command="rm -r results; gradbench run").to_parquet(tmp_path / "cells" / "a.parquet")
    assert table(tmp_path)["command"].tolist() == [""]


def test_shares_are_smoothed_by_the_recorded_number_of_test_examples(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=GP, seeds=4)
    cells["test/accuracy"] = np.resize([1.0, 0.95, 0.9, 0.85], len(cells))
    cells.assign(test_examples=20).to_parquet(tmp_path / "cells" / "a.parquet")
    (row,) = table(tmp_path).to_dict("records")
    counts = 20 * np.array([1.0, 0.95, 0.9, 0.85])
    mean = np.log((counts + 0.5) / (20 - counts + 0.5)).mean()
    assert row["none"] == pytest.approx((21 / (1 + np.exp(-mean)) - 0.5) / 20)


def test_a_probability_of_being_best_is_said_of_five_seeds_or_more_and_never_as_certain(
    tmp_path: Path,
) -> None:
    for seeds, said in ((4, False), (5, True)):
        synthetic.write(tmp_path, models=["wgan"], strengths=GP | {"clip_norm": (1.0,)}, seeds=seeds)
        (row,) = table(tmp_path).to_dict("records")
        assert ("with probability 0.99" in row["sentence"]) == said
        assert row["probability_best"] > 0.999


def test_what_a_clip_changed_is_said_of_the_steps_where_it_was_measured(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["mlp"], strengths={"none": (), "clip_value": (0.5,)}, seeds=8)
    path = tmp_path / "curves" / "a.parquet"
    curves = pd.read_parquet(path)
    curves.loc[curves["step"] > curves["step"].min(), ["clipped", "cosine", "grad_norm_used"]] = np.nan
    curves.loc[curves["clipped"].notna(), "clipped"] = 0.0
    curves.to_parquet(path)
    (row,) = table(tmp_path).to_dict("records")
    assert "It changed no gradient at the steps where that was measured." in row["sentence"]


def test_a_composition_says_what_both_of_its_parts_did_and_goes_on_at_the_corner(tmp_path: Path) -> None:
    synthetic.write(tmp_path, models=["wgan"], strengths={"none": ()}, seeds=10)
    synthetic.write_pairs(
        tmp_path, "gp+clip_norm", ("gp.lambda", (1.0, 10.0)), ("clip_norm.threshold", (0.1, 1.0)), (10.0, 0.1),
        models=["wgan"], seeds=10,
    )  # fmt: skip
    for path in (tmp_path / "curves").iterdir():
        pd.read_parquet(path).assign(penalty=0.5, clipped=1.0).to_parquet(path)
    (row,) = table(tmp_path).to_dict("records")
    assert (row["regularizer"], row["strength"]) == ("gp+clip_norm", "10.0,0.1")
    assert "The penalty makes up" in row["sentence"]
    assert "It changed" in row["sentence"]
    words = words_of(row["command"])
    assert (words["regularizer.gp.lambda"], words["regularizer.clip_norm.threshold"]) == (
        "100,1000",
        "0.001,0.01",
    )


def test_of_several_models_more_seeds_are_asked_of_the_undecided_one(tmp_path: Path) -> None:
    strengths = {"none": (), "gp": (0.1, 1.0)}
    synthetic.write(tmp_path, models=["lstm", "wgan"], strengths=strengths, statuses={"*": "completed"})
    words = words_of(table(tmp_path).loc["lstm", "command"])
    assert words["model"] == "lstm"


def test_no_command_names_code_that_stands_in_no_file(tmp_path: Path) -> None:
    synthetic.write(
        tmp_path, models=["lstm"], strengths={"none": (), "gp": (0.1, 1.0)}, statuses={"*": "completed"}
    )
    spec = yaml.safe_load((tmp_path / "experiment.yaml").read_text())
    spec["command"] = "gradbench run model=classifier model.network=__main__.Net regularizer=none,gp"
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(spec))
    (row,) = table(tmp_path).to_dict("records")
    assert not row["command"]
    assert "Run it again with seed=range(0," in row["sentence"]


def test_where_none_is_best_so_far_it_is_named_first(tmp_path: Path) -> None:
    cells = synthetic.write(tmp_path, models=["mlp"], strengths=GP, seeds=3, leaves={"model.margin": None})
    cells.loc[cells["regularizer"].eq("none"), "test/accuracy"] += [0.02, -0.005, 0.005]
    cells.to_parquet(tmp_path / "cells" / "a.parquet")
    (row,) = table(tmp_path).to_dict("records")
    assert row["advice"].startswith("Undecided: best seen none, then gp at λ = ")


def test_why_the_gradients_are_left_alone_is_said_of_one_learning_rate_and_of_several(tmp_path: Path) -> None:
    # alone, 5 % is shown to be the most that is gained; the brackets reach beyond it
    noise = np.tile([0.2, -0.2], 4)
    for part, rate, shift in (("a", 0.1, 3.0), ("b", 1.0, 1.0)):
        leaves = {"optimizer.lr": rate, "model.scale": "log", "model.margin": 0.05}
        strengths = {"none": (), "clip_norm": (1.0,)}
        cells = synthetic.write(
            tmp_path, models=["wgan"], strengths=strengths, seeds=8, leaves=leaves, part=part
        )
        cells["test/wasserstein"] = shift
        cells.loc[cells["regularizer"] != "none", "test/wasserstein"] *= np.exp(0.1 + noise)
        cells.to_parquet(tmp_path / "cells" / f"{part}.parquet")
    found = {one.group: one for one in answers(tmp_path)}
    for one in (found["wgan, any learning rate"], found["wgan (lr=1)"]):
        assert (one.verdict, one.advice) == ("no better", "Leave the gradients alone")
        assert "No treatment is more than 5 % better than none, each tested alone at 95 %; wh" in one.sentence
        assert "The interval reaches beyond 5 % because it is two-sided" in one.sentence


def test_every_verdict_is_explained() -> None:
    for verdict in (BETTER, *LEAVE_ALONE):
        assert verdict in RANKED.lower()
    assert UNDECIDED in ANSWERS.lower()


@pytest.mark.parametrize("none_is_best", [True, False])
def test_what_is_best_seen_is_said_alike_of_one_learning_rate_and_of_several(
    none_is_best: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for part, rate, shift in (("a", 0.1, 3.0), ("b", 1.0, 1.0)):
        cells = synthetic.write(
            tmp_path, models=["wgan"], strengths=GP, seeds=4, leaves={"optimizer.lr": rate}, part=part
        )
        best = (cells["regularizer"] == "none") == none_is_best
        noise = rng.normal(size=len(cells))
        noise -= noise.reshape(-1, 4).mean(axis=1).repeat(4)  # so that means are those that are put in
        cells["test/wasserstein"] = shift * np.where(best, 0.95, 1.0) * np.exp(0.3 * noise)
        cells.to_parquet(tmp_path / "cells" / f"{part}.parquet")
    found = {one.group: one for one in answers(tmp_path)}
    over, at_best = found["wgan, any learning rate"], found["wgan (lr=1)"]
    assert (over.verdict, at_best.verdict) == ("undecided", "undecided")
    for one in (over, at_best):
        assert one.advice.startswith(f"Undecided: best seen {'none, then gp' if none_is_best else 'gp'}")
