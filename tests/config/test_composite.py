"""Words that name a network or a metric: what they become, who may write them, and that they come back as typed."""

import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import FAMILIES, FAMILY

from gradbench.api.progress import stack_kind
from gradbench.cli.show import copyable_texts
from gradbench.config import composite
from gradbench.config.compose import Configs, Experiment
from gradbench.config.instantiate import instantiate_group, load_data
from gradbench.config.overrides import Axis, literal
from gradbench.config.sources import file_sha256, source_sha256
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.storage.results import Results, describe
from gradbench.storage.sanitize import is_command
from gradbench.sweep.plan import make_plan, validate

HEAD = """# @package _global_
defaults: [override /data: digits, override /optimizer: sgd]
steps: 2
eval_every: 1
model:
  name: {name}
  metric: test/accuracy
  goal: max
  unit: accuracy
  gradient_center: 0.0
  _target_: own.Task
"""
MODELS = {
    "taker": "  network: ???\n  metrics: null\n  neutral: {metrics: null}\n",
    "gan": "  networks: {critic: null, generator: null}\n",
    "ready": "  network: {_target_: nets.Net, width: 3, act: relu}\n  metrics: {first: nets.first}\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A config folder with models that take networks."""
    folder = tmp_path_factory.mktemp("conf")
    for name, text in MODELS.items():
        add_model(folder, name, text)
    return folder


@pytest.fixture(scope="module")
def configs(folder) -> Configs:
    return Configs(folder)


def add_model(folder: Path, name: str, text: str) -> None:
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / f"{name}.yaml").write_text(HEAD.format(name=name) + text)


def cells(configs: Configs, *words: str, experiment: Experiment | None = None) -> list[Cell]:
    parsed = configs.parse(list(words))
    return expand(configs, experiment or Experiment("x"), parsed, lambda _config: "f" * 64)


def cell(configs: Configs, *words: str) -> Cell:
    (only,) = cells(configs, *words)
    return only


def cells_or_none(configs: Configs, *words: str) -> list[Cell]:
    """Return the cells of any words; none if they are refused, in one line."""
    try:
        return cells(configs, *words)
    except UsageError as error:
        said = str(error)
    assert "\n" not in said
    return []


def refused(configs: Configs, *words: str, experiment: Experiment | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        cells(configs, *words, experiment=experiment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- any words -------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
parts = names.filter(str.isidentifier) | st.sampled_from(["null", "true", "inf", "nan", "e5", "é", "choice"])
quoted = {True: "{}", False: "'{}'"}  # Hydra's grammar has only ASCII without quotes
dotted = st.lists(parts, min_size=2, max_size=3).map(".".join).filter(composite.is_dotted_name)
plain = (
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False) | st.text("a'\" ,=[{$\\é")
)
places = st.sampled_from(["model.network", "model.networks.critic", "model.networks.generator"])
arguments = st.builds("{}.{}".format, places, names)


def sweep(names: list[str]) -> str:
    return ",".join(quoted[name.isascii()].format(name) for name in names)


@st.composite
def typed(draw) -> list[str]:
    """Draw words that name networks, with arguments, and metrics."""
    codes = draw(st.lists(places | names.map("model.metrics.{}".format), min_size=1, max_size=3, unique=True))
    words = [f"{key}={sweep(draw(st.lists(dotted, min_size=1, max_size=2)))}" for key in codes]
    for key in draw(st.lists(arguments, max_size=2, unique=True)):
        words.append(f"{key}={','.join(map(literal, draw(st.lists(plain, min_size=1, max_size=2))))}")
    return draw(st.permutations(words))


@settings(deadline=None)
@given(typed(), st.sampled_from(["taker", "gan", "ready"]))
def test_what_was_typed_comes_back_as_words_that_give_the_same_cell(configs, words, model):
    for one in cells_or_none(configs, f"model={model}", *words):
        program, run, *again = shlex.split(one.command())
        assert (program, run) == ("gradbench", "run")
        assert not any(composite.TARGET in word for word in again)
        same = cell(configs, *again[: -len(one.options)])
        assert (same.id, same.config, same.words) == (one.id, one.config, one.words)
        assert is_command(one.command())


@settings(deadline=None)
@given(st.lists(dotted, min_size=2, max_size=3, unique=True), st.integers(1, 3))
def test_networks_are_swept_and_each_is_given_every_argument(configs, networks, width):
    grid = cells(configs, "model=taker", f"model.network={sweep(networks)}", f"model.network.width={width}")
    nodes = [one.config["model"]["network"] for one in grid]
    assert nodes == [{"_target_": network, "width": width} for network in networks]
    assert len({one.id for one in grid} | {one.program for one in grid}) == 2 * len(grid)


@settings(deadline=None)
@given(
    st.sampled_from(
        ["model.network", "model.networks", "model.metrics", "model.network.", "model.networks.a"]
    ),
    st.sampled_from(["", "+", "++"]),
    st.text(".ab_@-= ", max_size=5),
    plain.map(literal)
    | st.sampled_from(["", "a", "a.b,c", "{_target_:a.b}", "[a.b]", "glob(*)", "${seed}", "???"]),
)
def test_any_other_word_ends_in_cells_or_in_one_line(configs, key, sign, end, value):
    for one in cells_or_none(configs, "model=taker", f"{sign}{key}{end}={value}", "model.network=a.B"):
        assert one.config["model"]["network"]["_target_"] == "a.B"


def test_a_networks_name_is_no_default_of_another_and_brings_none_of_its_arguments(configs):
    own = cell(configs, "model=ready", "model.network.width=3")
    assert own.config["model"]["network"] == {"_target_": "nets.Net", "width": 3, "act": "relu"}
    assert own.settings == ()
    for words in (
        ["model.network=a.B", "model.network.width=3"],
        ["model.network.width=3", "model.network=a.B"],
    ):
        other = cell(configs, "model=ready", *words)
        assert other.config["model"]["network"] == {"_target_": "a.B", "width": 3}
        assert cell(configs, *other.words).id == other.id != own.id


def test_tables_plans_and_commands_show_what_was_typed(configs, tmp_path):
    one = cell(configs, "model=taker", "model.network=a.B", "model.network.width=3", "model.metrics.f=a.f")
    row = describe(one)
    assert (row["model.network"], row["model.network.width"], row["model.metrics.f"]) == ("a.B", 3, "a.f")
    assert {key for key in row if key.endswith("_target_")} == {
        f"{group}._target_" for group in ("model", "data", "optimizer", "schedule", "regularizer")
    }
    assert " model.network=a.B " in one.command()
    assert stack_kind([one]) == "taker a.B · none"
    ((title, command),) = copyable_texts(Results(tmp_path), pd.Series(row))
    assert command == one.command()
    assert "It runs code named by model.network=a.B" in title
    assert "model.metrics.f=a.f" in title


# ---- compositions of regularizers ------------------------------------------------------------------------------

SHIPPED = Configs()
some_parts = st.lists(st.sampled_from(sorted(FAMILY.keys() - {"none"})), min_size=2, max_size=4, unique=True)
key_of = {"autoclip": "percentile", "zclip": "z"} | {
    name: "lambda" for name, family in FAMILY.items() if family == "penalty"
}


def composition(parts: list[str]) -> str:
    return f"regularizer={'+'.join(parts)}"


@settings(deadline=None, max_examples=6)
@given(some_parts, st.integers(1, 99), st.randoms(use_true_random=False))
def test_a_composition_comes_back_as_words_that_give_the_same_cell(parts, strength, random):
    words = [f"regularizer.{part}.{key_of.get(part, 'threshold')}={strength}" for part in parts[1:]]
    one = cell(SHIPPED, composition(parts), *words)
    _, _, *again = shlex.split(one.command())
    same = cell(SHIPPED, *again)
    assert (same.id, same.config, same.words) == (one.id, one.config, one.words)
    assert is_command(one.command())
    # penalties add up, projections come last: only the order within the other families counts
    name = str(one.config["regularizer"]["name"])
    acting = [part for family in composite.FAMILIES for part in name.split("+") if FAMILY[part] == family]
    assert name.split("+") == acting
    by_family = [[part for part in parts if FAMILY[part] == family] for family in composite.FAMILIES]
    assert name.split("+") == [*sorted(by_family[0]), *by_family[1], *by_family[2]]
    random.shuffle(by_family[0])
    random.shuffle(by_family)
    other = cell(SHIPPED, composition([part for group in by_family for part in group]), *words)
    assert other.id == one.id
    given_strengths = dict(zip(name.split("+"), one.strengths, strict=True))
    assert all(given_strengths[part] == strength for part in parts[1:])


@settings(deadline=None, max_examples=5)
@given(st.lists(st.sampled_from(FAMILIES["clipping"]), min_size=2, max_size=3, unique=True))
def test_the_order_of_clippings_is_part_of_a_cell(parts):
    one, other = cell(SHIPPED, composition(parts)), cell(SHIPPED, composition(parts[::-1]))
    assert one.id != other.id
    assert one.program == other.program, "they share passes"
    assert one.regularizer_program != other.regularizer_program


@settings(deadline=None, max_examples=5)
@given(st.sampled_from(sorted(FAMILY.keys() - {"none"})), st.integers(1, 99))
def test_a_lone_regularizer_may_be_addressed_as_a_part(name, strength):
    key = key_of.get(name, "threshold")
    other = "gp" if name != "gp" else "clip_norm"
    grid = cells(SHIPPED, f"regularizer={name},{name}+{other}", f"regularizer.{name}.{key}={strength}")
    alone = cell(SHIPPED, f"regularizer={name}", f"regularizer.{key}={strength}")
    assert grid[0].id == alone.id
    assert (grid[0].config, grid[0].words) == (alone.config, alone.words)
    assert strength in grid[1].strengths


def test_strengths_of_a_composition_are_swept_within_a_stack():
    grid = cells(
        SHIPPED,
        "regularizer=none,clip_norm,clip_value+clip_norm",
        "regularizer.clip_norm.threshold=0.1,1",
        "regularizer.clip_value.threshold=0.01,0.1",
    )
    assert len(grid) == len({one.id for one in grid}) == 1 + 2 + 4
    assert len({one.program for one in grid}) == 1
    assert len({one.regularizer_program for one in grid}) == 3
    penalised = cells(SHIPPED, "regularizer=gp,gp+clip_norm,none", "regularizer.gp.lambda=1,10")
    assert len({one.program for one in penalised}) == 3, "each penalty has passes of its own"


def test_the_table_has_each_parts_keys():
    row = describe(cell(SHIPPED, "regularizer=clip_norm+gp", "regularizer.gp.lambda=3"))
    assert row["regularizer"] == "gp+clip_norm"
    assert row["regularizer.strength"] == "gp.lambda+clip_norm.threshold"
    assert (row["regularizer.gp.lambda"], row["regularizer.clip_norm.threshold"]) == (3.0, 1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("regularizer=gp+gp", "regularizer=gp+gp has gp more than once; write regularizer=gp"),
        ("regularizer=gp+nothing", "regularizer=gp+nothing: there is no regularizer=nothing"),
        (
            "regularizer=none+gp",
            "regularizer=none+gp: none leaves all alone, and composes with nothing; write regularizer=gp",
        ),
        ("regularizer=gp+", "regularizer=gp+ has a part without a name; write regularizer=gp"),
        (
            "regularizer=gp+clip_norm regularizer.threshold=1,2",
            "regularizer.threshold=1,2 does not say which part of regularizer=gp+clip_norm it sets; write "
            "regularizer.clip_norm.threshold=1,2",
        ),
        (
            "regularizer=clip_norm+weight_clip regularizer.threshold=1",
            "write regularizer.clip_norm.threshold=1 or regularizer.weight_clip.threshold=1",
        ),
        (
            "regularizer=gp,gp+clip_norm regularizer.lambda=1 regularizer.gp.lambda=2",
            "regularizer.gp.lambda sets all that regularizer.lambda could; leave out one of them",
        ),
        (
            "regularizer=gp+clip_norm regularizer.clip_norm.treshold=1",
            "regularizer=gp+clip_norm has no clip_norm.treshold; did you mean 'regularizer.clip_norm.threshold'?",
        ),
        (
            "regularizer=gp regularizer.clip_norm.threshold=1",
            "regularizer=gp has no part clip_norm; choose regularizer=gp+clip_norm",
        ),
        ("regularizer=gp+clip_norm +regularizer.foo=1", "a key of a part is written regularizer.gp.foo"),
        (
            "regularizer=gp+clip_norm regularizer.gp.lambda=-1",
            "regularizer.gp.lambda must be >= 0 and finite",
        ),
        ("regularizer=gp+clip_norm regularizer.gp.lambda=x", "regularizer.gp.lambda must be a number"),
        (
            "regularizer=gp+clip_norm ~regularizer.gp",
            "~regularizer.gp takes away what gp must have; to leave gp out, write regularizer=clip_norm",
        ),
        ("regularizer=gp+clip_norm ~regularizer.clip_norm.family", "takes away what clip_norm must have"),
        ("regularizer=gp+clip_norm ~regularizer", "~regularizer takes away what every regularizer must have"),
        ("regularizer=gp+clip_norm regularizer.gp._target_=a.b", "only a config folder may"),
        (
            "regularizer=gp+clip_norm +regularizer@regularizer.agc=agc",
            "agc is no part of regularizer=gp+clip_norm; write it as gp+clip_norm+agc",
        ),
        (
            "regularizer=gp+clip_norm ~regularizer.gp.lambda",
            "regularizer.gp.lambda, its strength, must be a number",
        ),
        ("optimizer=sgd+adam", "there is no optimizer=sgd+adam"),
    ],
)
def test_a_mistake_in_a_composition_is_refused_with_what_to_type(words, said):
    assert said in refused(SHIPPED, *words.split())


def test_a_key_for_all_lone_regularizers_may_stand_beside_those_of_parts():
    grid = cells(
        SHIPPED,
        "regularizer=weight_clip,clip_norm,gp+clip_norm",
        "regularizer.threshold=3",
        "regularizer.clip_norm.threshold=2",
    )
    assert [one.strengths for one in grid] == [(3.0,), (2.0,), (10.0, 2.0)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "model=wgan regularizer=gp regularizer.players=both",
            "model=wgan measures a penalty of its critic alone, not of its generator; leave out players",
        ),
        (
            "model=wgan regularizer=gp+clip_norm regularizer.gp.players=generator",
            "measures a penalty of its critic alone, not of its generator",
        ),
        (
            "model=wgan regularizer=clip_norm regularizer.players=judge",
            "regularizer.players=judge: model=wgan has critic, generator or both; write one of them",
        ),
        (
            "model=mlp regularizer=gp+clip_norm regularizer.clip_norm.players=both",
            "regularizer.clip_norm.players=both: model=mlp has one network, mlp; leave it out",
        ),
        (
            "model=wgan regularizer=clip_norm regularizer.players=3",
            "regularizer.players must be a network's name, both or null, got 3",
        ),
        (
            "model=wgan regularizer=gp+clip_norm regularizer.players=both",
            "regularizer.players=both does not say which part of regularizer=gp+clip_norm it sets",
        ),
        ("model=mlp regularizer=gp+agc regularizer.agc.eps=0", "regularizer.agc.eps must be > 0, got 0"),
        (
            "model=wgan regularizer=gp+clip_norm regularizer.gp.points=fake",
            "regularizer.gp.points=fake: model=wgan measures a penalty at between, real, generated, both or around; "
            "write one of them",
        ),
        (
            "model=wgan regularizer=gp+gp_zero regularizer.gp.points=real regularizer.gp_zero.points=raal",
            "regularizer.gp_zero.points=raal: model=wgan measures a penalty at between, real, generated, both or "
            "around; write one of them; did you mean 'real'?",
        ),
        (
            "model=mlp regularizer=gp regularizer.points=3",
            "regularizer.points=3: model=mlp measures a penalty at ",
        ),
    ],
)
def test_what_acts_nowhere_or_cannot_be_built_is_refused_at_the_plan(words, said):
    with pytest.raises(UsageError) as caught:
        validate(cells(SHIPPED, *words.split()), lambda one: load_data(one.config))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_player_that_is_the_models_own_choice_is_no_other_cell():
    one = cell(SHIPPED, "model=wgan", "regularizer=clip_norm")
    assert cell(SHIPPED, "model=wgan", "regularizer=clip_norm", "regularizer.players=null").id == one.id
    both = cell(SHIPPED, "model=wgan", "regularizer=clip_norm", "regularizer.players=both")
    assert both.id != one.id
    assert cell(SHIPPED, *both.words).id == both.id


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_none_acts_on_no_network_and_is_one_cell_whatever_players_the_others_act_on(sign):
    (plain,) = cells(SHIPPED, "model=wgan")
    words = "model=wgan", "regularizer=none,clip_norm", f"{sign}regularizer.players=critic,both"
    none, *others = cells(SHIPPED, *words)
    assert (none.id, none.config, none.settings) == (plain.id, plain.config, plain.settings)
    assert [one.config["regularizer"]["players"] for one in others] == ["critic", "both"]
    assert "regularizer=none has no players, and agc, " in refused(SHIPPED, *words[:1], words[2])


def test_points_are_part_of_an_id_and_the_models_own_choice_is_no_other_cell():
    one = cell(SHIPPED, "model=wgan", "regularizer=gp+gp_zero")
    assert cell(SHIPPED, "model=wgan", "regularizer=gp+gp_zero", "regularizer.gp.points=null").id == one.id
    real = cell(SHIPPED, "model=wgan", "regularizer=gp+gp_zero", "regularizer.gp.points=real")
    assert real.id != one.id
    assert cell(SHIPPED, *real.words).id == real.id
    both = cells(SHIPPED, "model=wgan", "regularizer=none,gp", "regularizer.points=real,generated")
    assert len({one.program for one in both}) == len(both) == 3, "each kind of points has a stack of its own"


def test_regularizers_of_ones_own_compose_and_their_edited_code_is_another_cell(home):
    (home / "own").mkdir()
    (home / "own" / "regularizer").mkdir()
    text = "name: mine\nfamily: clipping\nstrength: most\n_target_: nets.mine\nmost: 2.0\n"
    (home / "own" / "regularizer" / "mine.yaml").write_text(text)
    (home / "own" / "regularizer" / "my-own.yaml").write_text(text)
    configs, words = Configs(home / "own"), ["regularizer=mine+gp", "regularizer.mine.most=3"]
    before = cell(configs, *words)
    assert before.config["regularizer"]["name"] == "gp+mine"
    assert before.strengths == (10.0, 3.0)
    assert set(before.sources) == {"regularizer.mine"}
    again = shlex.split(before.command())[2 : -len(before.options)]
    assert cell(configs, *again).id == before.id
    (home / "nets.py").write_text("EDITED = 1\n")
    forget()
    assert cell(configs, *words).id != before.id
    assert "rename my-own.yaml with letters, digits and _" in refused(configs, "regularizer=gp+my-own")


def test_an_experiment_sweeps_compositions_and_words_restrict_it(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "grid: {regularizer: [none, clip_norm+gp], regularizer.gp.lambda: [1, 2]}\n"
    )
    experiment = SHIPPED.experiment(str(tmp_path / "mine.yaml"))
    assert len(cells(SHIPPED, experiment=experiment)) == 3
    (one, two) = cells(SHIPPED, "regularizer=gp+clip_norm", experiment=experiment)
    assert [one.strengths[0], two.strengths[0]] == [1, 2]


# ---- config folders --------------------------------------------------------------------------------------------


def test_a_dotted_name_in_a_config_folder_is_short_for_a_node(tmp_path):
    add_model(tmp_path, "short", "  network: a.B\n  networks: {c: a.C, d: null}\n  metrics: {f: a.f}\n")
    full = "{_target_: a.B}\n  networks: {c: {_target_: a.C}, d: null}\n  metrics: {f: {_target_: a.f}}\n"
    add_model(tmp_path, "full", f"  network: {full}")
    short, full = (cell(Configs(tmp_path), f"model={name}").config["model"] for name in ("short", "full"))
    assert short == full | {"name": "short"}
    assert short["network"] == {"_target_": "a.B"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("network: 3", "model.network must be a dotted name like my_pkg.Net, got 3 in its YAML file"),
        (
            "network: [a.B]",
            "model.network must be a dotted name like my_pkg.Net, got ['a.B'] in its YAML file",
        ),
        ("network: a b", "model.network must be a dotted name like my_pkg.Net, got 'a b' in its YAML file"),
        ("networks: a.B", "model.networks must map names to dotted names, got 'a.B' in its YAML file"),
        ("metrics: {f: 3}", "model.metrics.f must be a dotted name like my_pkg.Net, got 3 in its YAML file"),
        ("network: ???", "model=mine needs a network: add model.network=my_pkg.Net"),
        ("network: {width: 3}", "model=mine needs a network: add model.network=my_pkg.Net"),
        (
            "networks: {critic: '???'}",
            "model=mine needs the network critic: add model.networks.critic=my_pkg.Net",
        ),
        ("metrics: {f: '???'}", "model=mine needs the metric f: add model.metrics.f=my_pkg.f"),
    ],
)
def test_a_node_that_names_no_code_is_refused(tmp_path, text, said):
    add_model(tmp_path, "mine", f"  {text}\n")
    assert refused(Configs(tmp_path), "model=mine") == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "model=mlp model.network=a.B",
            "model=mlp does not take model.network; model=classifier, model=language_model, model=ready, "
            "model=regressor, model=taker would",
        ),
        (
            "model=gan model.networks.judge=a.B",
            "model=gan does not take model.networks.judge; it takes model.networks.critic, model.networks.generator",
        ),
        ("model=taker model.network.width=3", "model=taker needs a network: add model.network=my_pkg.Net"),
        (
            "model=gan model.networks.critic.w=3",
            "model=gan needs the network critic: add model.networks.critic=",
        ),
        (
            "model=taker model.network._target_=a.B",
            "model.network._target_ is not typed; write model.network=a.B",
        ),
        ("model=gan ++model.networks.critic._target_=a.B", "write model.networks.critic=a.B"),
        (
            "model=taker model.network=transformer",
            "must be a dotted name like my_pkg.Net, got 'transformer'; that is a model: type model=transformer instead",
        ),
        ("model=taker model.network=Net", "model.network must be a dotted name like my_pkg.Net, got 'Net'"),
        (
            "model=taker model.network=a.B,a.class",
            "model.network must be a dotted name like my_pkg.Net, got 'a.cl",
        ),
        (
            "model=taker model.network={_target_:a.B}",
            "model.network must be a dotted name like my_pkg.Net, got {",
        ),
        ("model=gan model.networks={critic:a.B}", "expected model.networks.NAME=my_pkg.Net"),
        ("model=taker model.metrics=a.f", "expected model.metrics.NAME=my_pkg.f"),
        ("model=regressor model.network=a.B model.loss.q=1", "needs a loss: add model.loss=my_pkg.f"),
        ("model=regressor model.network=a.B model.loss._target_=a.f", "write model.loss=a.f"),
        ("model=mlp model.loss=a.f", "does not take model.loss; model=image_gan, model=regressor would"),
        ("~model steps=1 eval_every=1", "~model takes away what every model must have; leave it out"),
        ("model=taker model.metrics.f.k=1", "a metric takes no keys; write model.metrics.f=my_pkg.f"),
        ("model=taker model.network=a.B model.network.c._target_=a.C", "only a config folder may"),
        ("model=taker model.network=a.B model.network._partial_=true", "only a config folder may"),
        ("model=taker model.network=a.B model.network=a.C", "give it once, as model.network=a,b"),
    ],
)
def test_a_mistake_is_refused_with_what_to_type(configs, words, said):
    assert said in refused(configs, *words.split())


def test_a_loss_is_a_word_or_a_function_of_ones_own_with_arguments(configs, tmp_path):
    words = ["model=regressor", "model.network=a.B"]
    plain, own = cells(configs, *words, "model.loss=absolute,a.f")
    assert (plain.config["model"]["loss"], own.config["model"]["loss"]) == ("absolute", {"_target_": "a.f"})
    given = cell(configs, *words, "model.loss.q=0.9", "model.loss=a.f")
    assert given.config["model"]["loss"] == {"_target_": "a.f", "q": 0.9}
    for one in (plain, own, given):
        assert cell(configs, *one.words).id == one.id
        assert describe(one)["model.loss"] == ("absolute" if one is plain else "a.f")
    add_model(tmp_path, "lossy", "  network: a.B\n  loss: a.f\n")
    assert cell(Configs(tmp_path), "model=lossy").config["model"]["loss"] == {"_target_": "a.f"}
    assert cell(Configs(tmp_path), "model=lossy", "model.loss=a.g").config["model"]["loss"] == {
        "_target_": "a.g"
    }


def test_a_loss_named_by_an_experiment_of_nobodys_folder_is_refused(configs):
    experiment = Experiment("x", products=((Axis("model", ("regressor",)), Axis("model.loss", ("a.f",))),))
    assert "names code" in refused(configs, "model.network=a.B", experiment=experiment)


def test_a_network_applies_to_the_models_of_a_sweep_that_take_one(configs):
    grid = cells(configs, "model=mlp,taker", "model.network=a.B,a.C")
    assert [one.config["model"].get("network") for one in grid] == [
        None,
        {"_target_": "a.B"},
        {"_target_": "a.C"},
    ]


# ---- who may name code -----------------------------------------------------------------------------------------

CODE = ["model.network: a.B", "model.network: [a.B, a.C]", "+model.network: a.B", "model.metrics.f: a.f"]


@pytest.mark.parametrize("line", CODE)
def test_an_experiment_may_name_code_in_ones_own_config_folder_and_nowhere_else(tmp_path, folder, line):
    elsewhere, conf = tmp_path / "theirs.yaml", tmp_path / "conf"
    elsewhere.write_text(f"grid: {{model: taker, {line}}}\n")
    add_model(conf_dir(conf), "taker", "  network: a.Own\n  metrics: null\n")
    (conf / "experiments").mkdir()
    own = conf / "experiments" / "mine.yaml"
    own.write_text(elsewhere.read_text())
    (conf / "linked.yaml").symlink_to(elsewhere)
    configs = Configs(conf)
    for name in (str(elsewhere), str(conf / ".." / "theirs.yaml"), str(conf / "linked.yaml")):
        said = refused(configs, experiment=configs.experiment(name))
        assert (
            "names code, which only words that you type and files of your --config-dir may; if you trust"
            in said
        )
    for name in ("mine", str(own)):
        assert cells(configs, experiment=configs.experiment(name))
    key = line.partition(":")[0].removeprefix("+")
    typed = cells(configs, f"{key}=my.Own", experiment=configs.experiment(str(elsewhere)))
    assert [f" {key}=my.Own" in one.command() for one in typed] == [True]


def conf_dir(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_shipped_experiment_and_a_scale_name_no_code(configs, tmp_path, monkeypatch):
    (tmp_path / "theirs.yaml").write_text("grid: {model: taker}\nscales: {small: {model.network: a.B}}\n")
    experiment = configs.experiment(str(tmp_path / "theirs.yaml"))
    words = experiment.apply_scale(configs.parse(["scale=small"]))
    with pytest.raises(UsageError, match="names code"):
        expand(configs, experiment, words, lambda _config: "f" * 64)
    monkeypatch.setattr("gradbench.config.compose.shipped_folder", lambda name: tmp_path / name)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "shipped.yaml").write_text("grid: {model: taker, model.network: a.B}\n")
    shipped = configs.experiment("shipped")
    monkeypatch.undo()
    assert "names code" in refused(configs, experiment=shipped)


def test_an_experiment_may_give_arguments_of_a_network(configs, tmp_path):
    (tmp_path / "theirs.yaml").write_text("grid: {model: ready, model.network.width: [1, 2]}\n")
    grid = cells(configs, experiment=configs.experiment(str(tmp_path / "theirs.yaml")))
    assert [one.config["model"]["network"]["width"] for one in grid] == [1, 2]


def test_an_axis_that_nobody_vouched_for_is_refused_even_if_it_is_made_plain(configs):
    axes = (Axis("model", ("taker",)), Axis("model.network._target_", ("a.B",), added=True))
    said = refused(configs, experiment=Experiment("x", products=(axes,)))
    assert "only a config folder may" in said


# ---- ids -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch, folder) -> Path:
    """A working folder with code of one's own, which nothing here imports."""
    (tmp_path / "nets.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "scores.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    source_sha256.cache_clear()
    file_sha256.cache_clear()


GIVEN = ("model=taker", "model.network=nets.Net", "model.metrics.f=scores.f")


@pytest.mark.parametrize("edited", ["nets.py", "scores.py"])
def test_edited_code_is_another_cell_and_moved_code_the_same(home, configs, edited, monkeypatch):
    before = cell(configs, *GIVEN)
    (home / edited).write_text("EDITED = 1\n")
    forget()
    after = cell(configs, *GIVEN)
    assert after.id != before.id
    moved = home / "moved"
    moved.mkdir()
    for name in ("nets.py", "scores.py"):
        (home / name).rename(moved / name)
    monkeypatch.syspath_prepend(moved)
    forget()
    assert cell(configs, *GIVEN).id == after.id
    assert set(after.sources) == {"model.network", "model.metrics.f"}


def test_weights_count_by_their_content_and_not_by_their_name(home, configs):
    (home / "a.pt").write_bytes(b"weights")
    (home / "b.pt").write_bytes(b"weights")
    without = cell(configs, "model=mlp")
    a, b = (cell(configs, "model=mlp", f"model.weights={name}.pt") for name in "ab")
    assert a.id == b.id != without.id == cell(configs, "model=mlp", "model.weights=null").id
    assert len(cells(configs, "model=mlp", "model.weights=null,a.pt,b.pt")) == 2
    assert cell(configs, *shlex.split(a.command())[2:-2]).id == a.id
    assert describe(a)["model.weights._source_sha256"] == file_sha256("a.pt")
    (home / "a.pt").write_bytes(b"others")
    forget()
    assert cell(configs, "model=mlp", "model.weights=a.pt").id not in (a.id, without.id)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no.pt", "cannot read model.weights=no.pt"),
        (".", "cannot read model.weights=."),
        ("3", "a file's name"),
        (literal("a\0b"), "(no such file)"),
        ("a" * 300, "(File name too long)"),
    ],
)
def test_weights_that_cannot_be_read_are_refused_at_the_plan(home, given, said):
    with pytest.raises(UsageError, match=r"model\.weights") as caught:
        make_plan(None, ["model=mlp", f"model.weights={given}"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- instantiation ---------------------------------------------------------------------------------------------


class Task:
    """Keeps what it is given."""

    def __init__(self, **given: object) -> None:
        self.given = given


def test_a_model_is_given_its_networks_and_metrics_as_plain_dicts_and_other_nodes_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    network = {"_target_": "nowhere.Net", "width": 3, "version": 2, "act": {"_target_": "nowhere.act"}}
    node = {
        **{"name": "x", "_target_": "own.Task", "weights": "w.pt", "hidden": 4},
        **{"network": network, "networks": {"critic": network, "generator": None}, "metrics": None},
        "other": {"_target_": "fractions.Fraction", "numerator": 3},
    }
    given = instantiate_group({"model": node}, "model", sizes={"inputs": 2}).given
    plain = {key: value for key, value in network.items() if key != "version"}
    assert given == {
        **{"hidden": 4, "sizes": {"inputs": 2}, "other": 3},
        **{"network": plain, "networks": {"critic": plain}, "metrics": {}},
    }
    assert type(given["network"]) is type(given["network"]["act"]) is dict
    assert instantiate_group({"model": node | {"network": None}}, "model").given["network"] is None


def test_what_a_task_raises_is_one_line_however_it_is_given_its_networks(monkeypatch):
    class Strict:
        def __init__(self, network: object) -> None:
            raise ValueError("not this one") from KeyError("y")

    monkeypatch.setattr(sys.modules[__name__], "Task", Strict)
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    with pytest.raises(UsageError, match=r"^model=x: not this one$"):
        instantiate_group({"model": {"name": "x", "_target_": "own.Task", "network": None}}, "model")


NOT_NAMES = (
    "null",
    "True",
    "inf",
    "NaN",
    "1e5",
    "12",
    "a b",
    "a,b",
    "a=b",
    "",
    "é",
    "it's",
    "a.b",
    "${seed}",
)


@pytest.mark.parametrize("text", ["real", "match_rms_adamw", "train/mean_return", *NOT_NAMES])
def test_a_text_comes_back_from_the_word_that_a_command_shows_and_a_name_needs_no_quotes(text):
    word = composite.to_word("model.unit", text)
    (axis,) = Configs().parse([word]).axes
    (read,) = axis.values
    assert read == text
    assert (word == f"model.unit={text}") == (text not in NOT_NAMES)
