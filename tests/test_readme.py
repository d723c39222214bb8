"""Documentation cannot rot: every command it shows is one that works, every name one that exists."""

import math
import re
import runpy
import shlex
import string
from collections import Counter
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import typer
from guide import CLAIMING, write_files

from gradbench.cli import main as cli
from gradbench.cli.catalog import markdown
from gradbench.config.comments import parse_comments
from gradbench.config.compose import Configs, Experiment
from gradbench.grid.expand import expand
from gradbench.report import answers

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(
        {
            *ROOT.glob("*.md"),
            *ROOT.glob("results/*/README.md"),
            *(
                path
                for name in ("conf", "experiments", "gradbench", "tests")
                for path in ROOT.glob(f"{name}/**/*.md")
            ),
            ROOT / "results" / "README.md",
        }
    )
}
README = DOCUMENTS["README.md"]
EXPERIMENTS = DOCUMENTS["experiments/README.md"]
COMMANDS = {
    name: command for name, command in typer.main.get_command(cli.app).commands.items() if not command.hidden
}
BLOCKS = re.compile(r"^ *```(?:sh)\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)
FENCES = re.compile(r"^ *```.*?^ *```", flags=re.MULTILINE | re.DOTALL)


def shown(text):
    """Return everything that a document shows to be typed: the lines of its shell blocks, and code within a line."""
    lines = [line.split("   #")[0].strip() for block in BLOCKS.findall(text) for line in block.splitlines()]
    return [*lines, *re.findall(r"`([^`\n]+)`", FENCES.sub("", text))]


def commands(text):
    """Return the command lines of gradbench that a document shows, as lists of words."""
    return [shlex.split(line)[1:] for line in shown(text) if line.startswith("gradbench ")]


def headings(text):
    """Return the anchors that GitHub gives a document's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCES.sub("", text), flags=re.MULTILINE)
    kept = string.ascii_lowercase + string.digits + "-_ "
    return {"".join(c for c in title.lower() if c in kept).replace(" ", "-") for title in titles}


def section(text, title):
    """Return what stands under a heading, up to the next one of its level."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """Return the rows of all tables in a text, as lists of what stands in them."""
    return [
        [place.strip() for place in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def parsed(words):
    """Parse a command line without running it; an option that there is not, raises."""
    return COMMANDS[words[0]].make_context(words[0], words[1:]).params


def cells_of(words):
    """Return the cells that a ``gradbench run`` would have, as far as that needs no data."""
    options = parsed([*words])
    given = options["words"] or ["quick"]
    names = [word for word in given if "=" not in word]
    configs = Configs(options["config_dir"])
    experiment = configs.experiment(names[0]) if names else Experiment("readme")
    overrides = experiment.apply_scale(configs.parse([word for word in given if "=" in word]))
    return expand(configs, experiment, overrides, lambda config: "unread")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the files that the documents have a reader write."""
    write_files(tmp_path)
    (question,) = re.findall(r"```yaml\n(.*?)```", EXPERIMENTS, flags=re.DOTALL)
    for name, text in {**CLAIMING, "depth.yaml": question}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- commands, links, names --------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_is_shown_is_read_by_the_parser(document):
    for words in commands(DOCUMENTS[document]):
        if not words[0].startswith("-"):  # gradbench --help
            assert parsed(words), words


@cache
def can_be_planned(*words):
    """Return whether a ``gradbench run`` has cells; what two documents show is planned once."""
    return bool(cells_of(words))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_run_that_is_shown_can_be_planned(document, home):
    runs = [words for words in commands(DOCUMENTS[document]) if words[0] == "run"]
    for words in runs:
        if not any(re.search(r"…|\b[A-Z]{4,}\b", word) and not word.endswith(".md") for word in words):
            # one seed stands for a thousand
            assert can_be_planned(*(re.sub(r"^seed=range\(.*", "seed=0", word) for word in words)), words


def test_the_readme_says_how_many_cells_each_question_takes(home):
    found = re.findall(r"^# .*\((\d+) cells\)\ngradbench (.*)$", README, flags=re.MULTILINE)
    assert len(found) >= 5
    for count, line in found:
        assert len(cells_of(shlex.split(line))) == int(count), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_a_file_leads_somewhere(document):
    text = FENCES.sub("", DOCUMENTS[document])
    targets = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for target in targets:
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / document).parent / path if path else ROOT / document
        assert place.exists(), target
        if anchor:
            page = place / "README.md" if place.is_dir() else place
            assert anchor in headings(page.read_text(encoding="utf-8")), target


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    lines = [line for text in DOCUMENTS.values() for line in shown(text)]
    named = {found[1] for line in lines if (found := re.match(r"make ([a-z-]+)", line))}
    assert {"run", "test"} <= named <= targets


def test_every_file_of_tests_that_is_named_exists():
    files = [f"/{path.relative_to(ROOT)}" for path in ROOT.glob("tests/**/test_*.py")]
    for document, text in DOCUMENTS.items():
        for name in re.findall(r"[\w/]*\btest_\w+\.py", text):
            found = [file for file in files if file.endswith(f"/{name}")]
            assert len(found) == 1, f"{document}: {name} is {found}"


# ---- the README --------------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 1300


@pytest.mark.parametrize("group", ["model", "regularizer"])
def test_the_readme_names_every_model_and_regularizer(group):
    listed = set(re.findall(r"`(\w+)`", section(README, "What it compares")))
    assert set(Configs().groups[group]) <= listed
    written = [(ROOT / f"conf/data/{name}.yaml").read_text() for name in Configs().groups["data"]]
    shipped = [text for text in written if "???" not in text and "defaults: [csv" not in text]
    assert f"{len(shipped)} data sets" in README


def test_the_readme_lists_every_command():
    assert set(COMMANDS) <= {words[0] for words in commands(README)}


def test_the_answers_that_the_readme_quotes_are_those_of_the_reference_results():
    found = answers(ROOT / "results" / "reference" / "quick")
    assert [answer.group for answer in found] == ["lstm", "mlp", "wgan"]
    for answer in found:
        (row,) = (row for row in rows(README) if re.match(rf"{answer.group}\b", row[0]))
        assert row[1] == answer.treatment
        assert row[2] == answer.value
        for number in re.findall(r"\S+ \[[^]]+\]", row[3]):
            assert number in answer.sentence


def test_the_counts_that_the_readme_quotes_are_those_of_the_reference_results():
    cells = pd.read_parquet(ROOT / "results" / "reference" / "quick" / "cells")
    lost = [cells[(cells["model"] == "lstm") & (cells["regularizer"] == name)] for name in ("none", "gp")]
    none, penalty = (f"{(rows['status'] == 'diverged').sum()} of {len(rows)}" for rows in lost)
    assert f"untreated, {none} runs diverged; with a penalty, {penalty} |" in README
    statuses = Counter(cells["status"])
    parts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    assert f"{statuses.total()} cells: {parts} · tables in results/quick" in README


def test_the_claims_that_the_readme_quotes_are_rows_of_the_table_of_claims():
    page = DOCUMENTS["results/article/README.md"]
    table = {row[0]: row for row in rows(page) if re.fullmatch(r"\d+[a-z]", row[0])}
    counts = Counter(row[4].partition(":")[0] for row in table.values())
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("supported", "contradicted", "undecided"))
    for text in (README, page):
        assert f"{len(table)} " in text
        assert said in text
    quoted = [row for row in rows(README) if re.match(r"\d+[a-z]: ", row[0])]
    assert len(quoted) == 5
    for claim, effect, n, verdict in quoted:
        row = table[claim.partition(":")[0]]
        (number,) = re.findall(r"(\S+ \[[^]]+\]×?)", effect)
        assert number in row[2].replace("\\", "")
        assert n == row[3]
        assert verdict == row[4].partition(":")[0]


# ---- what it leads to --------------------------------------------------------------------------------------


def test_the_page_of_choices_is_what_the_yaml_files_say():
    assert DOCUMENTS["conf/README.md"] == markdown(), "python -m gradbench.cli.catalog > conf/README.md"


def test_every_key_of_a_choice_has_a_comment():
    found = [row for row in rows(DOCUMENTS["conf/README.md"]) if row[0].startswith("`")]
    assert len(found) > 100
    for key, _, meaning in found:
        assert meaning, key


def test_a_page_is_neither_a_choice_nor_an_experiment():
    configs = Configs()
    names = {
        *configs.experiments,
        *configs.groups,
        *(name for group in configs.groups.values() for name in group),
    }
    assert not any("README" in name for name in names)
    assert set(configs.groups) == {"data", "launcher", "model", "optimizer", "regularizer", "schedule"}


def test_a_comment_belongs_to_the_key_beside_it_above_it_or_below_it():
    text = """\
# the file
a: 1    # one
        #   goes on
# of b
b: [x, y]  # two
c:      # holds others
  d: 'a # b'
  # of e
  e: 5

# a heading
f: 6    # six
"""
    assert parse_comments(text) == {
        "a": "one goes on",
        "b": "of b two",
        "c": "holds others",
        "c.d": "",
        "c.e": "of e",
        "f": "six",
    }


def test_the_table_of_experiments_says_what_their_files_say():
    (line,) = re.findall(r"^ARTICLE := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    configs = Configs()
    assert {"quick", *line.split()} <= set(configs.experiments)
    table = {row[0].strip("`"): row[1:] for row in rows(EXPERIMENTS)}
    for name in configs.experiments:
        question, _, full, small, _ = table[name]
        assert question == configs.experiment(name).question
        for scale, count in (("full", full), ("small", small)):
            assert count in ("–", f"{size_of(configs.experiment(name), scale):,}"), name


def size_of(experiment, scale):
    """Return how many cells an experiment has, where every axis of a product applies to all of its cells."""
    replaced = {axis.key: len(axis.values) for axis in experiment.scales.get(scale, ())}
    return sum(
        math.prod(replaced.get(axis.key, len(axis.values)) for axis in product)
        for product in experiment.products
    )


def test_the_page_of_results_names_every_column_that_a_run_writes():
    page = DOCUMENTS["results/README.md"]
    known = {name for code in re.findall(r"`([^`\n]+)`", page) for name in code.split(", ")}
    keys = {key.split(".")[0] for key in Configs().compose(()).config}
    for folder in ("reference/quick", "article/recurrent", "article/generalise"):
        for table in ("cells", "curves"):
            for column in pd.read_parquet(ROOT / "results" / folder / table).columns:
                is_config = table == "cells" and column.split(".")[0] in keys
                is_metric = f"…/{column.partition('/')[2]}" in known
                assert is_config or is_metric or column in known, column


def test_the_numbers_of_injected_cases_are_those_of_the_tests():
    page, fuzz = DOCUMENTS["tests/README.md"], (ROOT / "tests" / "test_fuzz.py").read_text()
    (cases,) = re.findall(r"^OVERRIDES, EXPERIMENTS, TABLES, FILES = (.*)$", fuzz, flags=re.MULTILINE)
    killing = (ROOT / "tests" / "test_kill.py").read_text()
    kills, mends = re.findall(r"^(?:KILLS|MENDS) = (\d+)$", killing, flags=re.MULTILINE)
    assert f"{sum(map(int, cases.split(','))):,} cases" in page
    assert f"({kills} kills, and {mends} while mending)" in page


@pytest.mark.slow
def test_each_example_of_data_of_ones_own_trains_as_it_is_shown(tmp_path, monkeypatch):
    text = section(DOCUMENTS["conf/README.md"], "Data of your own")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        (name,) = re.findall(r"^# (\w+\.py)", code)
        (tmp_path / name).write_text(code)
        if name.startswith("make_"):
            runpy.run_path(name)
    runs = [words for words in commands(text) if "data=huggingface" not in words and words[0] == "run"]
    assert {word for words in runs for word in words if word.startswith("data=")} == {
        *("data=npz", "data=csv", "data=images", "data=loader", "data=pairs")
    }
    for words in runs:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*words, "steps=2", "eval_every=2", "--no-report", "--jobs", "1"])
        assert not stopped.value.code, words
