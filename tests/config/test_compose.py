"""Overrides are Hydra's grammar, configs are Hydra's composition, and what is wrong is said in one line."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gradbench.config.compose import Configs, resolve, shipped_folder
from gradbench.config.neutral import pop_neutral
from gradbench.config.overrides import literal
from gradbench.errors import UsageError

CONFIGS = Configs()
REPOSITORY = Path(__file__).parents[2]

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
odd_texts = (texts | st.text("'\"\\ ,=:[]{}()$~\n\té∑", max_size=8)).filter(lambda text: "${" not in text)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | odd_texts
keys = st.from_regex(r"[a-zA-Z_][\w\- ,:=\\()\[\]{}]{0,5}[a-zA-Z_]", fullmatch=True).filter(str.isascii)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


def axis(word: str):
    (only,) = CONFIGS.parse([word]).axes
    return only


def one_line(action) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


# ---- the grammar ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(values)
def test_hydra_reads_every_value_that_is_written_as_it_was(value):
    assert OverridesParser.create().parse_override(f"+x={literal(value)}").value() == value


@settings(max_examples=60)
@given(st.lists(scalars, min_size=2, max_size=5))
def test_a_list_of_values_is_an_axis_of_them(several):
    parsed = axis("seed=" + ",".join(map(literal, several))).values
    assert list(parsed) == several
    assert list(map(type, parsed)) == list(map(type, several))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=3", (3,)),
        ("seed=1,2", (1, 2)),
        ("seed=range(3)", (0, 1, 2)),
        ("seed=range(1,6,2)", (1, 3, 5)),
        ("seed=range(0,1,0.25)", (0.0, 0.25, 0.5, 0.75)),
        ("seed=choice(4,2)", (4, 2)),
        ("seed=sort(3,1,2)", (1, 2, 3)),
        ("seed=sort(range(3),reverse=true)", (2, 1, 0)),
        ("seed=tag(a,b,choice(1,2))", (1, 2)),
        ("seed=float(range(2))", (0.0, 1.0)),
        ("seed=1e-3,inf,-2", (0.001, float("inf"), -2)),
        ("seed='a,b',\"c d\"", ("a,b", "c d")),
        ("seed=[1,2],[3]", ([1, 2], [3])),
        ("seed={a:1},{b:[x,y]}", ({"a": 1}, {"b": ["x", "y"]})),
        ("seed=null,none", (None, "none")),
        ("seed=", ("",)),
        ("model=glob(*)", tuple(CONFIGS.groups["model"])),
        ("regularizer=glob(clip_*)", ("clip_norm", "clip_value")),
        ("regularizer=glob([clip*,none],exclude=*_value)", ("clip_norm", "none")),
    ],
)
def test_a_word_of_hydras_grammar_gives_the_axis_it_means(word, expected):
    assert axis(word).values == expected


def test_shuffle_gives_the_same_values_in_some_order():
    assert sorted(axis("seed=shuffle(range(20))").values) == list(range(20))


@pytest.mark.parametrize(("word", "added"), [("x=1", False), ("+x=1", True), ("++x=1", True)])
def test_a_plus_says_that_the_key_may_be_new(word, added):
    assert axis(word).added is added


def test_a_deletion_is_left_to_hydra():
    words = CONFIGS.parse(["~divergence", "seed=1"])
    assert words.verbatim == ("~divergence",)
    assert [axis.key for axis in words.axes] == ["seed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=range(1"], "cannot read 'seed=range(1': a ( is not closed; add )"),
        (["seed=[1"], "a [ is not closed; add ]"),
        (["seed=1,"], "cannot read 'seed=1,': there is a comma without a value; write seed=1"),
        (["seed=1,,2"], "there is a comma without a value; write seed=1,2"),
        (
            ["seed=range(3,shuffle)"],
            "range is not called like this; write seed=range(STOP), range(START,STOP)",
        ),
        (["seed=range(a)"], "range is not called like this; write seed=range(STOP)"),
        (["seed=sort(1,a)"], "sort is not called like this; write seed=sort(3,1,2)"),
        (
            ["seed=ranges(4)"],
            "cannot read 'seed=ranges(4)': there is no function ranges; did you mean 'range'?",
        ),
        (["data.path=f(1)"], "there is no function f; quote a value with such letters: 'data.path=\"f(1)\"'"),
        (["seed=(1,2)"], "extraneous input '('; quote"),
        (["+regularizer=gp"], "every cell has a regularizer: type regularizer=gp, without +"),
        (["++model=mlp,lstm"], "every cell has a model: type model=mlp,lstm, without +"),
        (["seed=range(0,5,0)"], "zero"),
        (["seed=range(0,inf)"], "more than 100,000 values"),
        (["seed=range(3,3)"], "no values"),
        (["seed=interval(0,1)"], "interval"),
        (["seed=bogus(1)"], "bogus"),
        (["seed=glob(*)"], "no group"),
        (["regularizer=glob(zzz)"], "matches nothing; regularizer is one of"),
        (["seed=1", "seed=2"], "given twice"),
        (["model=mpl"], "did you mean 'mlp'"),
        (["model="], "model is one of"),
        (["regularizer=null"], "regularizer is one of"),
        (["model@other=mlp,lstm"], "cannot be swept"),
        (["=3"], "cannot read '=3'"),
    ],
)
def test_a_malformed_word_is_refused_in_one_line_that_says_why(words, said):
    assert said in one_line(lambda: CONFIGS.parse(words))


# ---- composition ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("model=lstm",), ("model=wgan", "regularizer=gp"), ("model=mlp", "data=wine")]
)
def test_a_composed_config_is_what_hydra_itself_composes(words):
    with initialize_config_dir(str(shipped_folder("conf")), version_base="1.3"):
        expected = OmegaConf.to_container(compose("config", overrides=list(words)), resolve=True)
    if expected["regularizer"]["name"] == "none":
        assert expected["regularizer"].pop("players") is None  # it acts on no network
    config, choices, neutral = CONFIGS.compose(words)
    assert pop_neutral(expected) == neutral
    assert resolve(config) == expected
    for word in words:
        group, option = word.split("=")
        assert choices[group] == option


@pytest.mark.parametrize(
    "text", ["${a.b}", "${ a.b }", "${c}", "x${a.b}y", "${oc.env:HOME}", "\\${a}", "plain", "$"]
)
def test_interpolations_are_resolved_as_omegaconf_resolves_them(text):
    config = {"a": {"b": 3}, "c": "${a.b}", "d": text, "e": [text, 1]}
    expected = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert resolve(config) == expected


def test_an_interpolation_that_leads_nowhere_is_named():
    assert "a.z" in one_line(lambda: resolve({"a": {"b": "${a.z}"}}))


def test_a_mandatory_value_that_is_missing_is_named():
    assert "data.path=…" in one_line(lambda: resolve({"data": {"path": "???"}}))


# ---- experiments ---------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_shipped_experiment_can_be_read():
    assert "quick" in CONFIGS.experiments
    for name in CONFIGS.experiments:
        experiment = CONFIGS.experiment(name)
        assert experiment.question
        assert all(product for product in experiment.products)


def test_an_experiment_may_write_axes_as_lists_as_single_values_or_in_the_grammar(tmp_path):
    text = "grid: {model: glob(*), seed: range(2), steps: 10, optimizer.lr: [1e-3, 1], +note: 'x,y'}"
    (product,) = CONFIGS.experiment(written(tmp_path, text)).products
    assert {axis.key: axis.values for axis in product} == {
        "model": tuple(CONFIGS.groups["model"]),
        "seed": (0, 1),
        "steps": (10,),
        "optimizer.lr": (0.001, 1),  # YAML 1.1 alone would read the first as text
        "note": ("x", "y"),
    }
    assert [axis.key for axis in product if axis.added] == ["note"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: [", "not readable YAML"),
        ("- 1", "needs a key 'grid'"),
        ("", "needs a key 'grid'"),
        ("3", "needs a key 'grid'"),
        ("question: why?", "needs a key 'grid'"),
        ("grid: 3", "must map keys to values"),
        ("grid: []", "must map keys to values"),
        ("grid: [{seed: 1}, 2]", "must map keys to values"),
        ("grid: {seed: []}", "no values"),
        ("grid: {seed: range(}", "cannot read"),
        ("grid: {model: [mlp, lsmt]}", "did you mean 'lstm'"),
        ("grid: {seed: 1, seed: 2}", "duplicate"),
        ("grid: {seed: !!set {a}}", "not readable YAML"),
        ("grid: {seed: 1}\nclaim: []", "nothing reads the key claim; did you mean 'claims'?"),
        ("grid: {seed: 1}\nqestion: why?", "nothing reads the key qestion; did you mean 'question'?"),
        ("gird: {seed: 1}", "nothing reads the key gird; did you mean 'grid'?"),
        ("grid: {seed: 1}\nfoo: 3", "nothing reads the key foo (there are: question, grid, scales, claims)"),
        ("grid: {seed: 1}\n3: foo", "nothing reads the key 3 (there are:"),
        ("grid: {seed: 1}\nquestion: [1]", "'question' must be a sentence, got [1]"),
        ("grid: {seed: 1}\nscales: {full: {steps: 3}}", "scale=full is the grid as it stands"),
    ],
)
def test_a_broken_experiment_is_refused_in_one_line_that_names_the_file(tmp_path, text, said):
    name = written(tmp_path, text)
    message = one_line(lambda: CONFIGS.experiment(name))
    assert said in message
    assert name in message


def test_an_unknown_experiment_is_refused_with_the_nearest_name(tmp_path):
    assert "did you mean 'quick'" in one_line(lambda: CONFIGS.experiment("qick"))
    assert "nowhere.yaml" in one_line(lambda: CONFIGS.experiment(str(tmp_path / "nowhere.yaml")))


# ---- a user's own folder, and where configs are found ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("defaults: [nowhere]", "In 'regularizer/mine': Could not load 'regularizer/nowhere'"),
        ("[a]", "In 'regularizer/mine': ConfigTypeError raised while composing config: Cannot merge"),
        ("a: [1", "mine.yaml"),
    ],
)
def test_a_broken_option_is_refused_in_one_line_that_names_it_and_announces_nothing(tmp_path, text, said):
    (tmp_path / "regularizer").mkdir()
    (tmp_path / "regularizer" / "mine.yaml").write_text(text)
    message = one_line(lambda: Configs(tmp_path).compose(("regularizer=mine",)))
    assert message.startswith("cannot compose regularizer=mine: ")
    assert said in message
    assert not message.endswith(":")


def test_a_folder_of_ones_own_adds_options_and_experiments(tmp_path):
    folder = tmp_path / "it's, odd"
    (folder / "regularizer").mkdir(parents=True)
    (folder / "experiments").mkdir()
    shutil.copy(shipped_folder("conf") / "regularizer/clip_norm.yaml", folder / "regularizer/mine.yaml")
    (folder / "experiments/own.yaml").write_text("grid: {regularizer: mine}")
    configs = Configs(folder)
    assert {"mine", "clip_norm"} <= set(configs.groups["regularizer"])
    assert configs.experiment("own").products[0][0].values == ("mine",)
    assert configs.compose(("regularizer=mine",))[1]["regularizer"] == "mine"
    assert configs.path("regularizer", "mine").parent.parent == folder


def test_a_broken_option_in_ones_own_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "regularizer").mkdir()
    (tmp_path / "regularizer/mine.yaml").write_text("name: [a")
    assert "mine.yaml" in one_line(lambda: Configs(tmp_path).compose(("regularizer=mine",)))


def test_a_config_folder_that_is_not_there_is_refused(tmp_path):
    assert "is not a folder" in one_line(lambda: Configs(tmp_path / "nowhere"))


def test_configs_and_experiments_travel_inside_the_wheel(tmp_path):
    """Lay the package out as pyproject tells the wheel to, and use it from there, far from the clone."""
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    ignored = shutil.ignore_patterns("__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=ignored)
    for source, target in wheel["force-include"].items():
        shutil.copytree(REPOSITORY / source, tmp_path / target, ignore=ignored)
    code = (
        "from gradbench.config.compose import Configs, shipped_folder; import gradbench\n"
        "configs = Configs()\n"
        "configs.experiment('quick'), configs.compose(('model=lstm', 'regularizer=gp'))\n"
        "print(gradbench.__file__, shipped_folder('conf'), shipped_folder('experiments'), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [tmp_path / "gradbench" / name for name in ("__init__.py", "conf", "experiments")]
    assert done.stdout.split() == list(map(str, expected))


def test_an_interrupt_that_omegaconf_stumbles_over_is_an_interrupt(monkeypatch):
    def stumbles(*_args, **_options):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise AttributeError("_flags")
        except AttributeError as error:
            raise ValueError from error

    monkeypatch.setattr("gradbench.config.compose.compose", stumbles)
    with pytest.raises(KeyboardInterrupt):
        Configs().compose(("model=mlp", "seed=97"))
