"""An id says what a cell computes, and nothing else: golden ids, and what changes one and what does not."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gradbench.config.compose import GROUPS, Config, Configs, Experiment, leaves, set_key, shipped_folder
from gradbench.config.identity import LABELS, LOCATIONS, TARGET, shipped_target
from gradbench.config.instantiate import NO_ARGUMENTS
from gradbench.config.neutral import is_same, pop_neutral
from gradbench.config.validate import COLUMNS, RULES
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.expand import copy_config, expand
from gradbench.grid.stacks import group_by_program
from gradbench.storage.provenance import provenance
from gradbench.storage.results import describe

CONFIGS = Configs()

GOLDEN = {
    "model=mlp regularizer=none optimizer=sgd": "1918f24cfb0d3e35",
    "model=lstm": "8672f8763453536d",
    "model=sequence": "269d894abc1dbe4f",
    "model=wgan": "fe51affcac09e3c2",
    "model=autoencoder": "c615ec0886af318c",
    "model=cnn": "c8429fc0ba1abf01",
    "model=resnet": "7ffc98b60246d5e2",
    "model=sequence_transformer": "793c72cd3710e7f3",
    "model=transformer": "c8edb179f7891137",
    "model=translation": "d9a7c16a63cedf3a",
    "model=actor_critic": "389e7045cf510188",
    "model=a2c": "a9f16a568cec1ad2",
    "model=mlp optimizer=adam_ppo": "1e7b5e325fd5cbc1",
    "model=mlp optimizer=rmsprop_a2c": "faf1d74223697123",
    "model=mlp schedule=linear_decay": "5c7689667d16b4da",
    "model=mlp regularizer=agc": "cb66d5aea969620a",
    "model=mlp regularizer=autoclip": "8aba25bf934c63c3",
    "model=mlp regularizer=block_rms": "f28f9c5de90c5377",
    "model=mlp regularizer=clip_norm": "b4be2ed4efdaef96",
    "model=mlp regularizer=clip_value": "0a306152ee22d705",
    "model=mlp regularizer=gp": "0f191542734f87b3",
    "model=mlp regularizer=gp_lp": "87fe4ac0db6f58bb",
    "model=mlp regularizer=gp_max": "31e27c6d93661ffc",
    "model=mlp regularizer=gp_zero": "e8755282ff4744df",
    "model=mlp regularizer=spectral_norm": "9cbba4f3f498db98",
    "model=mlp regularizer=weight_clip": "73c0a48e7894f1a6",
    "model=mlp regularizer=zclip": "d206415daa748192",
    "model=mlp optimizer=adam": "b943279dfda9058a",
    "model=mlp optimizer=adam_wgan": "645d8f3e51e20fd3",
    "model=mlp optimizer=adamw": "b851cd8a03b51e22",
    "model=mlp optimizer=rmsprop": "f5c4510f595fc998",
    "model=mlp optimizer=sgd_lm": "5c4d65089af44a60",
    "model=mlp optimizer.momentum=0.9 optimizer.nesterov=true": "fc4cce9f0722f4c0",
    "model=mlp optimizer=adamw optimizer.weight_decay=0.0 optimizer.decoupled=false": "e52433b10057a637",
    "model=mlp optimizer=lion": "0412739cc15a3dc0",
    "model=mlp optimizer=muon": "6d2081894ea17df2",
    "model=mlp optimizer.weight_decay=0.1 optimizer.decoupled=true": "da6f8dedc9004f6d",
    "model=mlp accumulate=4 schedule=constant": "88a4fac9d82cff67",
    "model=mlp schedule=cosine": "aba604bcbd698fbb",
    "model=mlp schedule=inverse_sqrt": "e21a90b89fb016e3",
    "model=mlp schedule=milestones": "8043d9e9195d2b67",
    "model=mlp schedule=step": "a5512d5cbcebac57",
    "model=mlp schedule=warmup": "4b3ade1d38266334",
    "model=mlp schedule=warmup_cosine": "033e07b6a5d8d1d6",
    "model=wgan regularizer=gp regularizer.lambda=1": "c8f31319fc97b7db",
    "model=wgan regularizer=gp_lp regularizer.one_sided=false": "94b465865df66b39",
    "model=lstm data=shakespeare data.limit=1000": "bd9e0bf529547fc8",
    "model=mlp data=mnist steps=10 record_every=5 precision=float64": "e33f9e7171245f6a",
    "model=wgan data=swiss_roll divergence.factor=2 seed=7": "a45bf239a332706a",
    "model=classifier model.network=gradbench.models.networks.mlp.Perceptron": "838106757c9141dd",
    "model=regressor model.network=gradbench.models.networks.mlp.Perceptron": "54d714d7395673d4",
    "model=language_model model.network=gradbench.models.networks.mlp.Perceptron": "d25d55d59c3c1170",
    "model=image_gan": "aca874159ab91ddb",
    "model=mlp optimizer=adam optimizer.betas=[0.8,0.9]": "db508a10b76e4dda",
}
"""Command line -> id, over data whose fingerprint is 64 zeros. One that changes has everybody train again."""


def cells(words: str, configs: Configs = CONFIGS) -> list[Cell]:
    parsed = configs.parse(words.split())
    return expand(configs, Experiment("golden"), parsed, lambda _config: "0" * 64)


def cell(words: str, configs: Configs = CONFIGS) -> Cell:
    (only,) = cells(words, configs)
    return only


def with_leaf(one: Cell, key: str, value: object) -> Cell:
    config = copy_config(one.config)
    set_key(config, key, value)
    return replace(one, config=config)


# ---- golden ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", GOLDEN)
def test_an_id_is_what_it_was(words):
    assert cell(words).id == GOLDEN[words]


some_and_all_golden = pytest.mark.parametrize(
    "golden", [[*GOLDEN][::4], pytest.param([*GOLDEN], marks=pytest.mark.slow)], ids=["some", "all"]
)
"""Each is composed from other files."""


def test_golden_ids_cover_every_choice_of_models_regularizers_optimizers_and_schedules():
    chosen = {word for words in GOLDEN for word in words.split()}
    for group in ("model", "regularizer", "optimizer", "schedule"):
        assert {f"{group}={option}" for option in CONFIGS.groups[group]} <= chosen
    assert len(set(GOLDEN.values())) == len(GOLDEN)


# ---- what changes an id ----------------------------------------------------------------------------------------


def other(value: object) -> object:
    """Return another value of the same kind."""
    if isinstance(value, list):
        return [*value, 1.0]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float) and math.isinf(value):
        return 1.0
    return f"{value}x" if isinstance(value, str) else 1 if value is None else value + 1


@pytest.mark.parametrize("words", GOLDEN)
def test_every_leaf_changes_the_id_but_labels_and_where_data_lies(words):
    one = cell(words)
    for key, value in leaves(one.config):
        group, _, last = key.rpartition(".")
        is_left_out = key in LABELS or (group.startswith("data") and last in {*LOCATIONS, TARGET})
        changed = with_leaf(one, key, other(value))
        assert (changed.id == one.id) == is_left_out, key


def test_other_data_and_a_new_key_are_another_cell():
    one = cell("model=mlp")
    assert len({one.id, replace(one, data_sha256="1" * 64).id, with_leaf(one, "model.new", 1).id}) == 3


# ---- what does not ---------------------------------------------------------------------------------------------


def test_how_a_cell_is_run_and_where_its_data_lie_are_left_out():
    here = cell("model=lstm data=shakespeare")
    there = cell(
        "model=lstm data=shakespeare data.root=/b data.web.train.url=https://b device=cuda stack_width.cpu=2"
    )
    assert here.id == there.id
    assert cell("model=mlp data=mnist data.download=false").id == cell("model=mlp data=mnist").id


@pytest.fixture
def renovated(tmp_path, monkeypatch):
    """Return a function that edits a copy of the shipped conf and uses it from then on."""
    conf = tmp_path / "conf"

    def renovate(edit, pattern: str = "*/*.yaml") -> Configs:
        shutil.copytree(shipped_folder("conf"), conf)
        for path in conf.glob(pattern):
            path.write_text(edit(path.read_text()))
        for module in ("compose", "identity"):
            monkeypatch.setattr(f"gradbench.config.{module}.shipped_folder", lambda _folder: conf)
        shipped_target.cache_clear()
        return Configs()

    yield renovate
    shipped_target.cache_clear()


RENOVATIONS = {
    "_target_: gradbench.": "_target_: gradbench.elsewhere.",
    "unit: ": "unit: new ",
    "goal: max": "goal: min",
    "metric: test/": "metric: train/",
    "family: projection": "family: clipping",
}
"""Text of the shipped files -> text in its place: what moves modules and rewords what the report shows."""


@some_and_all_golden
def test_renovating_gradbench_renames_no_cell(golden, renovated):

    def named(configs: Configs) -> dict[str, tuple[str, str]]:
        grid = {words: cell(words, configs) for words in golden}
        return {words: (one.id, one.regularizer_program) for words, one in grid.items()}

    def edit(text: str) -> str:
        for old, new in RENOVATIONS.items():
            text = text.replace(old, new)
        return text

    before = named(CONFIGS)
    written = [path.read_text() for path in shipped_folder("conf").glob("*/*.yaml")]
    assert all(any(old in text for text in written) for old in RENOVATIONS)
    assert named(renovated(edit)) == before


def test_moving_modules_neither_splits_nor_reorders_stacks(renovated):
    grid = "model=mlp,wgan regularizer=none,clip_norm,clip_value,gp,gp_lp seed=range(3)"
    before = [[one.id for one in members] for members in group_by_program(cells(grid))]
    configs = renovated(lambda text: text.replace("_target_: gradbench.", "_target_: gradbench.zoo."))
    assert [[one.id for one in members] for members in group_by_program(cells(grid, configs))] == before


def test_a_choice_has_the_shipped_target_of_its_name():
    for group in GROUPS:
        for option in CONFIGS.groups[group]:
            words = f"model=mlp {group}={option}" if group != "model" else f"model={option}"
            node = CONFIGS.compose(tuple(words.split())).config[group]
            assert shipped_target(group, node["name"]) == node["_target_"], (group, option)
    assert shipped_target("regularizer", "../optimizer/sgd") is None


# ---- what would make an id say something else ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (
            "model=mlp model.metric=test/accuracy,test/loss",
            r"model.metric only says what reports show .* cannot be swept",
        ),
        (
            "model=mlp +cell=5",
            "cell is a column of the table of cells and cannot be a key; choose another name",
        ),
        ("model=mlp compile=true", r"compile is no key any more: .*; leave it out"),
        ("model=mlp +compile=true", r"compile is no key any more: .*; leave it out"),
    ],
)
def test_words_under_which_ids_would_mislead_are_refused(words, refused):
    with pytest.raises(UsageError, match=refused):
        cells(words)


def test_every_column_beside_configs_and_metrics_is_reserved():
    described = describe(cell("model=mlp"))
    columns = {key for key in described if "." not in key} | set(provenance("cpu"))
    configs = {key.split(".")[0] for key, _ in leaves(cell("model=mlp").config)}
    assert columns - configs - {"device"} <= COLUMNS


def test_a_file_of_ones_own_under_a_shipped_name_is_refused_unless_it_is_the_same(tmp_path):
    shipped = shipped_folder("conf") / "regularizer" / "clip_norm.yaml"
    own = tmp_path / "regularizer" / "clip_norm.yaml"
    own.parent.mkdir()
    own.write_bytes(shipped.read_bytes())
    assert cell("model=mlp regularizer=clip_norm", Configs(tmp_path)).id
    own.write_text(shipped.read_text().replace("threshold: 1.0", "threshold: 7.0"))
    assert cell("model=mlp regularizer=none", Configs(tmp_path)).id
    with pytest.raises(UsageError, match=r"clip_norm.yaml has the name of a file that gradbench ships"):
        cell("model=mlp regularizer=clip_norm", Configs(tmp_path))


# ---- neutral values --------------------------------------------------------------------------------------------


def test_a_constant_schedule_and_one_batch_per_update_are_no_part_of_an_id():
    typed = cell("model=mlp schedule=constant accumulate=1 optimizer.decoupled=false")
    assert typed.id == GOLDEN["model=mlp regularizer=none optimizer=sgd"]
    assert "schedule" not in typed.identity


def test_a_schedules_steps_are_those_of_training_whether_typed_or_not():
    implied = cell("model=mlp schedule=cosine steps=300")
    assert implied.config["schedule"]["steps"] == 300
    assert cell("model=mlp schedule=cosine steps=300 schedule.steps=300").id == implied.id


def test_cells_with_different_numbers_of_a_schedule_share_a_stack():
    swept = cells(
        "model=mlp schedule=warmup_cosine schedule.warmup=0,10 schedule.final=0,0.1 schedule.steps=50,60"
    )
    assert len({one.id for one in swept}) == 8
    assert len({one.program for one in swept}) == 1
    lists = cells("model=mlp schedule=milestones schedule.milestones=[1],[2] schedule.factor=0.1,0.2")
    assert len({one.program for one in lists}) == 2


@some_and_all_golden
def test_a_new_key_at_its_neutral_value_renames_no_cell_and_at_another_does(golden, renovated, monkeypatch):
    before = {words: cell(words).id for words in golden}
    for key in ("course.name", "course.warmup", "precise"):
        monkeypatch.setitem(RULES, key, ("anything", lambda _: True, ""))
    new = "course: {name: plain, warmup: 0, neutral: {name: plain, warmup: 0}}\nprecise: false\n"
    declared = "neutral: {precise: false, "
    configs = renovated(lambda text: f"{text}\n{new}".replace("\nneutral: {", f"\n{declared}"), "config.yaml")
    assert {words: cell(words, configs).id for words in golden} == before
    changed = cells("model=mlp course.name=plain,steep course.warmup=0,5 precise=false,true", configs)
    assert len({one.id for one in changed} | {cell("model=mlp", configs).id}) == 8
    assert not any("neutral" in key for key, _ in leaves(changed[0].config))


def mine(folder: Path, text: str, group: str = "optimizer") -> Configs:
    (folder / group).mkdir(exist_ok=True)
    (folder / group / "mine.yaml").write_text(text)
    return Configs(folder)


def test_neutral_values_come_from_a_folder_of_ones_own_and_are_inherited(tmp_path):
    own = "defaults: [sgd, _self_]\nname: mine\n"
    before = cell("model=mlp optimizer=mine", mine(tmp_path, own))
    assert "momentum" not in before.identity["optimizer"], "what sgd declares"
    configs = mine(tmp_path, own + "warmup: 0\nneutral: {warmup: 0}\n")
    assert cell("model=mlp optimizer=mine", configs).id == before.id
    assert cell("model=mlp optimizer=mine optimizer.warmup=1", configs).id != before.id
    assert "neutral" not in dict(before.config["optimizer"])


def test_a_neutral_value_holds_for_the_keys_beside_it_alone():
    config: Config = {"neutral": {"a": 1}, "a": 1, "b": {"a": 1, "neutral": {"c": [0]}, "c": {"neutral": {}}}}
    assert pop_neutral(config) == {"a": 1, "b.c": [0]}
    assert config == {"a": 1, "b": {"a": 1, "c": {}}}


@pytest.mark.parametrize(
    ("one", "another", "same"),
    [
        (1, 1.0, True),
        (0, False, False),
        (1.0, True, False),
        (None, 0, False),
        ("a", "a", True),
        ([0, 1.0], [0.0, 1], True),
        ([0], [False], False),
        ([0], [0, 0], False),
        ([], None, False),
    ],
)
def test_values_are_compared_with_care_for_their_type(one, another, same):
    assert is_same(one, another) is is_same(another, one) is same


@pytest.mark.parametrize("declared", ["3", "[a]", "null", "{momentum: {a: 1}}", "{momentum: '${seed}'}"])
def test_a_declaration_that_is_none_is_refused_in_one_line(tmp_path, declared):
    text = f"name: mine\n_target_: gradbench.optimizers.sgd\nlr: 1.0\nneutral: {declared}\n"
    with pytest.raises(UsageError, match=r"^optimizer\.neutral must map keys to the values") as caught:
        cell("model=mlp optimizer=mine", mine(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "word",
    ["+neutral.seed=0", "++optimizer.neutral.lr=0.1", "~optimizer.neutral", "~neutral", "+a={neutral:{b:1}}"],
)
def test_only_a_config_folder_says_what_is_neutral(word):
    with pytest.raises(UsageError, match="only a config folder says which values are neutral"):
        cells(f"model=mlp {word}")


@pytest.mark.parametrize("group", ["optimizer", "regularizer", "data"])
def test_a_neutral_value_is_what_the_constructor_does_without_the_key(group):
    import inspect

    from hydra.utils import get_object

    checked = 0
    for option in CONFIGS.groups[group]:
        config, _, neutral = CONFIGS.compose((f"{group}={option}",))
        parameters = inspect.signature(get_object(config[group]["_target_"])).parameters
        for key, value in neutral.items():
            place, _, name = key.partition(".")
            if place == group and name not in NO_ARGUMENTS[group]:
                assert is_same(parameters[name].default, value), (option, key)
                checked += 1
    assert checked
