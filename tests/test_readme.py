"""Documentation cannot rot: every command it shows is one that works, every name one that exists."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gradbench.config.compose import Configs, Experiment
from gradbench.grid.expand import expand
from gradbench.report import answers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SWEEPS = re.findall(r"^gradbench run (.*)$", README, flags=re.MULTILINE)


def words(line):
    return [word for word in shlex.split(line) if not word.startswith("--")]


@pytest.mark.parametrize("line", SWEEPS)
def test_every_sweep_in_the_readme_expands(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    configs = Configs()
    assert expand(configs, Experiment("readme"), configs.parse(words(line)), lambda config: "unread")


def test_the_readme_shows_at_least_five_sweeps():
    assert len(SWEEPS) >= 5


def test_the_sweep_that_the_readme_counts_has_that_many_cells():
    (line,) = (line for line in SWEEPS if "regularizer=clip_norm,gp" in line)
    configs = Configs()
    cells = expand(configs, Experiment("readme"), configs.parse(words(line)), lambda config: "unread")
    assert "this is 25 cells" in README
    assert len(cells) == 25


@pytest.mark.parametrize("group", ["model", "regularizer"])
def test_the_readme_lists_every_model_and_regularizer(group):
    listed = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    assert set(Configs().groups[group]) <= listed


def test_the_answers_that_the_readme_quotes_are_those_of_the_reference_results():
    found = answers(ROOT / "results" / "reference" / "quick")
    assert [answer.model for answer in found] == ["lstm", "mlp", "wgan"]
    for answer in found:
        (row,) = re.findall(rf"^\| {answer.model}[^|]*\| (.*)$", README, flags=re.MULTILINE)
        assert answer.treatment in row
        assert answer.value in row


def test_every_link_to_a_file_leads_somewhere():
    for text in (README, CONTRIBUTING):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / target).exists(), target


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`?make (\w+)", README + CONTRIBUTING)) - {"PYTHON"}
    assert {"run", "test"} <= named <= targets


def test_the_readme_names_every_experiment_of_the_article():
    (line,) = re.findall(r"^ARTICLE := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    section = README.partition("## The article's claims")[2]
    for name in line.split():
        assert f"`{name}`" in section or f"`gradbench run {name}`" in section, name
        assert Configs().experiment(name).source["claims"]
    assert section.index("<!-- claims -->") < section.index("<!-- /claims -->")


def test_the_regularizer_that_contributing_adds_works_as_written(tmp_path, monkeypatch):
    code, config = re.findall(r"```(?:python|yaml)\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    strip = len("   ")
    code, config = ("\n".join(line[strip:] for line in text.splitlines()) + "\n" for text in (code, config))
    (tmp_path / "my_pkg.py").write_text(code)
    folder = tmp_path / "conf" / "regularizer"
    folder.mkdir(parents=True)
    node = yaml.safe_load(config) | {"_target_": "my_pkg.my_clip"}
    (folder / "my_clip.yaml").write_text(yaml.safe_dump(node))
    monkeypatch.syspath_prepend(tmp_path)

    import torch
    from small import CPU, SIZES, data_of

    from gradbench.training.loop import train

    configs = Configs(tmp_path / "conf")
    sizes = [
        f"{key}={value}" for key, value in SIZES.items() if key in ("model.hidden", "steps", "eval_every")
    ]
    parsed = configs.parse(["model=mlp", "regularizer=my_clip", "regularizer.threshold=1e-3", *sizes])
    (cell,) = expand(configs, Experiment("mine"), parsed, lambda config: "unread")
    curves = train([cell], data_of(cell), CPU).curves
    assert torch.as_tensor(curves["clipped"]).eq(1).all()
    assert torch.as_tensor(curves["cosine"]).allclose(torch.ones(20, 1, dtype=torch.float64))
