"""Expansion is a pure function: each cell once, whatever the order, and each reachable by its own command."""

import dataclasses
import itertools
import math
import re
import shlex
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from small import in_suites

from gradbench.config import validate as rules
from gradbench.config.compose import GROUPS as CHOSEN
from gradbench.config.compose import Configs, Experiment
from gradbench.config.hashing import canonical
from gradbench.config.overrides import Axis, Overrides, literal
from gradbench.errors import UsageError
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.grid.stacks import Stack, group_by_program, split_into_stacks

CONFIGS = Configs()
NONE = Experiment("none")


def unread(config) -> str:
    """Stand in for the fingerprint of data that no test loads: it depends on the config as the real one does."""
    return canonical({key: value for key, value in config["data"].items() if key not in ("path", "root")})


def cells(*words: str, experiment: Experiment = NONE, configs: Configs = CONFIGS) -> list[Cell]:
    return expand(configs, experiment, configs.parse(list(words)), unread)


def rerun(command: str) -> list[Cell]:
    """Read a printed command as a shell and the command line would."""
    program, run, *words = shlex.split(command)
    assert (program, run) == ("gradbench", "run")
    assert all("=" in word or word.startswith("~") for word in words), (
        "a word would be taken for an experiment"
    )
    return cells(*words)


def ids(grid: list[Cell]) -> list[str]:
    return [cell.id for cell in grid]


def refused(*words: str, experiment: Experiment = NONE) -> str:
    with pytest.raises(UsageError) as caught:
        cells(*words, experiment=experiment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_grid_composes_once_per_choice_of_groups_and_checks_each_value_once(monkeypatch):
    """What is slow happens as often as there are different values, not as often as there are cells."""
    configs, checked = Configs(), Counter()
    real = rules.check_leaf
    monkeypatch.setattr(rules, "check_leaf", lambda key, *rest: (checked.update([key]), real(key, *rest)))
    choices = "model=mlp", "regularizer=clip_norm,gp"
    cells(*choices, configs=configs)
    monkeypatch.setattr(OmegaConf, "create", lambda *_: pytest.fail("milliseconds per cell"))
    before = checked.copy()
    axes = "regularizer.threshold=1,2,3,4", "regularizer.lambda=1,2", "seed=range(30)"
    assert len(cells(*choices, *axes, configs=configs)) == (4 + 2) * 30
    assert configs.compose.cache_info().misses == 2
    # a list is looked at anew: it has no place in a set
    counts = {key: number - before[key] for key, number in checked.items() if key != "optimizer.betas"}
    assert counts["seed"] == 2 * 30
    assert counts["regularizer.threshold"] == 4
    assert counts["regularizer.lambda"] == 2
    assert max(number for key, number in counts.items() if key != "seed") == 4


# ---- any grid --------------------------------------------------------------------------------------------------

positive = st.floats(min_value=1e-12, allow_nan=False) | st.integers(1, 9)
odd = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8).filter(
    lambda text: "${" not in text and text != "???"  # those mean something
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | odd
AXES = {
    "regularizer.threshold": positive,
    "regularizer.lambda": st.floats(0, 1e9) | st.integers(0, 9),
    "regularizer.center": st.floats(-2, 2) | st.integers(-2, 2),
    "optimizer.lr": st.floats(1e-9, 1e3) | st.integers(1, 3),
    "optimizer.betas": st.lists(st.floats(0, 0.99) | st.just(0), min_size=2, max_size=2),
    "optimizer.weight_decay": st.floats(-1, 1),
    "model.hidden": st.integers(1, 99),
    "data.limit": st.none() | st.integers(1, 9),
    "seed": st.integers(0, 2**40),
    "divergence": st.fixed_dictionaries({"factor": st.floats(1.5, 9) | st.just(math.inf)}),
    "+regularizer.note": plain | st.lists(plain, max_size=3),
    "++model.deep.note": plain | st.lists(plain, max_size=3),
}
GROUPS = {  # few enough that most choices are composed once
    "regularizer": ["none", "clip_norm", "gp"],
    "optimizer": ["sgd", "adam"],
    "model": ["lstm", "mlp", "wgan"],
}


@st.composite
def sweeps(draw) -> list[str]:
    """Draw the words of a sweep: some groups, some axes, few values each."""
    words = []
    for group in draw(st.lists(st.sampled_from(sorted(GROUPS)), unique=True, max_size=3)):
        options = draw(st.lists(st.sampled_from(GROUPS[group]), min_size=1, max_size=2))
        words.append(f"{group}={','.join(options)}")
    for key in draw(st.lists(st.sampled_from(sorted(AXES)), unique=True, max_size=3)):
        chosen = draw(st.lists(AXES[key], min_size=1, max_size=2))
        words.append(f"{key}={','.join(map(literal, chosen))}")
    return draw(st.permutations(words))


def expanded(words: list[str]) -> list[Cell]:
    try:
        return cells(*words)
    except UsageError as error:
        assume("nothing reads" not in str(error))  # an axis of a group that was not drawn
        raise


@settings(max_examples=8, deadline=None)
@given(sweeps())
def test_no_cell_stands_twice_in_a_grid(words):
    assert max(Counter(ids(expanded(words))).values()) == 1


@settings(max_examples=8, deadline=None)
@given(sweeps(), st.randoms())
def test_the_order_of_the_words_changes_no_id(words, random):
    before = set(ids(expanded(words)))
    random.shuffle(words)
    assert set(ids(expanded(words))) == before


@settings(max_examples=8, deadline=None)
@given(sweeps())
def test_every_cell_is_reached_alone_by_the_command_that_it_prints(words):
    for cell in expanded(words):
        assert ids(cells(*cell.words)) == [cell.id]
        (again,) = rerun(cell.command())
        assert (again.id, again.config, again.command()) == (cell.id, cell.config, cell.command())


@settings(max_examples=8, deadline=None)
@given(sweeps())
def test_expansion_is_the_product_of_the_axes_that_a_cell_has(words):
    """Count against a product taken by hand, over distinct values as Python compares them."""
    axes = {axis.key: axis for axis in CONFIGS.parse(words).axes}
    grid = expanded(words)
    groups = {key: sorted(set(axis.values)) for key, axis in axes.items() if key in GROUPS}
    expected = 0
    for options in itertools.product(*groups.values()):
        keys = {
            key
            for cell in grid
            if all(cell.choices[group] == option for group, option in zip(groups, options, strict=True))
            for key in axes
            if key not in GROUPS and has(cell, key)
        }
        expected += math.prod(len({canonical(number(value)) for value in axes[key].values}) for key in keys)
    assert len(grid) == expected


def has(cell: Cell, key: str) -> bool:
    node = cell.config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def number(value):
    """Return a number as a float, since 1 and 1.0 are one setting where the default is a float."""
    if isinstance(value, list):
        return [number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


# ---- what the words mean ---------------------------------------------------------------------------------------


def test_the_sweep_of_the_readme_is_25_cells():
    grid = cells(
        *("model=lstm", "regularizer=clip_norm,gp", "regularizer.threshold=0.1,1,10"),
        *("regularizer.lambda=1,10", "seed=range(5)"),
    )
    assert len(grid) == len(set(ids(grid))) == 25
    strengths = Counter((cell.choices["regularizer"], cell.strengths[0]) for cell in grid)
    expected = [("clip_norm", 0.1), ("clip_norm", 1), ("clip_norm", 10), ("gp", 1), ("gp", 10)]
    assert strengths == Counter(dict.fromkeys(expected, 5))


def test_one_and_one_point_nought_are_one_cell():
    assert len(cells("optimizer.lr=1,1.0", "seed=3,3.0", "steps=1e3,1000")) == 1


def test_a_value_said_by_default_is_the_cell_that_says_it_outright():
    assert ids(cells("model=mlp")) == ids(cells("model=mlp", "seed=0", "data=digits", "regularizer=none"))


def test_a_margin_of_null_is_none_at_all_as_its_message_says():
    assert cells("model=mlp", "model.margin=null")[0].config["model"]["margin"] is None


def test_a_dict_is_merged_as_hydra_merges_it():
    (cell,) = cells("divergence={factor:2}")
    (same,) = cells("divergence.factor=2")
    assert cell.config["divergence"] == same.config["divergence"]
    assert cell.config["divergence"]["factor"] == 2.0
    assert cell.id == same.id


def test_a_new_key_is_added_where_a_plus_says_so():
    (cell,) = cells("+model.b={c:1}", "++seed=4")
    assert cell.config["model"]["b"] == {"c": 1}
    assert cell.seed == 4


def test_lists_keep_the_kind_of_their_default(tmp_path):
    (cell,) = cells("optimizer=adam", "optimizer.betas=[0,1]")
    assert [type(item) for item in cell.config["optimizer"]["betas"]] == [float, float]


def test_a_group_of_ones_own_is_chosen_with_a_plus_and_stands_in_the_command(tmp_path):
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/one.yaml").write_text("a: 1")
    configs = Configs(tmp_path)
    (cell,) = cells("+extra=one", "+extra.b=2", "model.hidden=${extra.b}", configs=configs)
    assert cell.config["extra"] == {"a": 1, "b": 2}
    assert cell.config["model"]["hidden"] == 2
    words = shlex.split(cell.command())
    assert words[-2:] == ["--config-dir", str(tmp_path)]
    assert ids(cells(*words[2:-2], configs=configs)) == [cell.id]


def test_a_deleted_key_stays_deleted_in_the_command():
    (cell,) = cells("model=mlp", "~optimizer.nesterov")
    assert "nesterov" not in cell.config["optimizer"]
    assert ids(rerun(cell.command())) == [cell.id]


def test_how_a_cell_is_run_and_where_its_data_lies_are_no_part_of_what_it_is():
    here = cells("model=lstm", "data=text", "data.path=/a/x.txt", "device=cpu")
    there = cells("model=lstm", "data=text", "data.path=/b/y.txt", "device=cuda", "stack_width.cpu=2")
    assert ids(here) == ids(there)
    assert ids(here) != ids(cells("model=lstm", "data=text", "data.path=x", "data.level=word"))


def test_the_data_are_part_of_what_a_cell_is():
    one, other = (expand(CONFIGS, NONE, Overrides(), lambda _config, text=text: text) for text in "ab")
    assert ids(one) != ids(other)


# ---- experiments under overrides ---------------------------------------------------------------------------------

TWO = Experiment(
    "two",
    products=(
        (
            Axis("model", ("mlp", "lstm")),
            Axis("regularizer", ("clip_norm",)),
            Axis("regularizer.threshold", (1, 2)),
        ),
        (
            Axis("model", ("mlp",)),
            Axis("regularizer", ("gp", "none")),
            Axis("seed", (0, 1)),
            Axis("optimizer.note", ("x",), True),
        ),
    ),
)


def test_an_experiment_is_the_union_of_its_products():
    assert len(cells(experiment=TWO)) == 2 * 2 + 2 * 2


def test_an_override_of_a_swept_key_replaces_its_axis_where_cells_have_it():
    grid = cells("regularizer.threshold=5,6,7", experiment=TWO)
    assert Counter(cell.choices["regularizer"] for cell in grid) == {"clip_norm": 6, "gp": 2, "none": 2}


def test_an_override_of_an_added_key_replaces_its_value():
    assert {
        cell.config["optimizer"]["note"]
        for cell in cells("regularizer=gp", "optimizer.note=y", experiment=TWO)
    } == {"y"}


def test_an_override_of_a_group_restricts_it():
    assert {cell.choices["model"] for cell in cells("model=lstm", experiment=TWO)} == {"lstm"}
    assert len(cells("regularizer=none,gp", experiment=TWO)) == 4


def test_an_override_of_a_group_that_a_product_leaves_open_chooses_it():
    assert {cell.choices["optimizer"] for cell in cells("optimizer=adam", experiment=TWO)} == {"adam"}


def test_an_override_that_leaves_nothing_is_refused():
    assert "nothing of experiment 'two' is left under model=wgan" in refused("model=wgan", experiment=TWO)


def test_an_axis_that_no_cell_has_left_is_refused():
    assert "nothing reads regularizer.threshold" in refused(
        "regularizer=none", "regularizer.threshold=1", experiment=TWO
    )


def test_products_that_overlap_give_each_cell_once():
    twice = Experiment("twice", products=TWO.products * 2)
    assert ids(cells(experiment=twice)) == ids(cells(experiment=TWO))


@in_suites("name", [("quick",), ("deep",)], [(name,) for name in CONFIGS.experiments])
def test_a_cell_of_a_shipped_experiment_is_reached_by_its_command(name):
    grid = expand(CONFIGS, CONFIGS.experiment(name), Overrides(), unread)
    assert len(set(ids(grid))) == len(grid)
    one_per_seed = {cell.seed: cell for cell in grid}
    one_per_setting = {canonical(cell.config | {"seed": 0}): cell for cell in grid}
    for cell in [*one_per_seed.values(), *one_per_setting.values()]:
        assert ids(rerun(cell.command())) == [cell.id]


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("regularizer=clip_norm regularizer.treshold=1", "did you mean 'regularizer.threshold'"),
        ("stepz=3", "did you mean 'steps'"),
        ("model.goal=maximize", "model.goal must be min or max, got 'maximize'"),
        ("model.goal=up", "model.goal must be min or max, got 'up'"),
        ("model.goal=''", "model.goal must be min or max, got ''"),
        ("model.metric=", "model.metric must be a metric's name, got ''"),
        ("model.targets=class", "model.targets must be one of null, classes, numbers, none, got 'class'"),
        ("model.scale=ln", "model.scale must be one of log, logit, linear, got 'ln'"),
        ("model.margin=-1", "model.margin must be > 0, or null"),
        ("seed=abc", "seed must be a whole number, got 'abc'"),
        ("seed=", "seed must be a whole number, got ''"),
        ("seed=1.5", "seed must be a whole number, got 1.5"),
        ("seed=inf", "seed must be a whole number, got inf"),
        ("seed=true", "seed must be a whole number, got true"),
        ("seed=-1", "seed must be >= 0, got -1"),
        ("seed=[1]", "seed must be a whole number, got [1]"),
        ("seed={a:1}", "seed, which is a value"),
        ("steps=0", "steps must be >= 1"),
        ("optimizer.lr=nan", "optimizer.lr must be > 0 and finite, got nan"),
        ("optimizer.lr=-1", "optimizer.lr must be > 0"),
        ("optimizer.nesterov=3", "optimizer.nesterov must be true or false, got 3"),
        ("optimizer=adam optimizer.betas=0.9", "optimizer.betas must be a list, got 0.9"),
        ("schedule=cosin", "did you mean 'cosine'"),
        ("schedule=warmup schedule.warmup=-1", "schedule.warmup must be >= 0"),
        ("schedule=warmup schedule.warmup=1.5", "schedule.warmup must be a whole number, got 1.5"),
        (
            "schedule=warmup schedule.warmup=301 steps=300",
            "schedule.warmup=301 is longer than steps=300: the learning rate would never reach optimizer.lr; give "
            "schedule.warmup=30",
        ),
        ("schedule=warmup_cosine schedule.warmup=51 schedule.steps=50", "is longer than schedule.steps=50"),
        (
            "schedule=cosine +schedule.warmup=5",
            "nothing reads schedule.warmup=5: schedule=cosine has no warmup",
        ),
        ("schedule=cosine schedule.final=1.5", "schedule.final must be in [0, 1]"),
        ("schedule=cosine schedule.final=nan", "schedule.final must be in [0, 1]"),
        ("schedule=cosine schedule.steps=0", "schedule.steps must be >= 1"),
        ("schedule=step schedule.every=0", "schedule.every must be >= 1"),
        ("schedule=step schedule.factor=inf", "schedule.factor must be > 0 and finite"),
        ("schedule=milestones schedule.milestones=[2,2]", "schedule.milestones must be ascending"),
        ("schedule=milestones schedule.milestones=[0]", "schedule.milestones must be ascending"),
        ("accumulate=0", "accumulate must be from 1 to 256, got 0"),
        ("accumulate=257", "accumulate must be from 1 to 256"),
        ("regularizer=clip_norm regularizer.threshold=-1", "use regularizer=none"),
        ("regularizer=clip_norm regularizer.threshold=nan", "regularizer.threshold"),
        ("regularizer=gp regularizer.lambda=-0.1", "regularizer.lambda must be >= 0"),
        ("regularizer=gp regularizer.lambda=inf", "regularizer.lambda must be >= 0 and finite"),
        ("regularizer=clip_norm ~regularizer.threshold", "there is no such key"),
        ("precision=float16", "precision must be one of float32, float64, bfloat16, got 'float16'"),
        ("device=cpu,cuda", "device says how cells are run and cannot be swept"),
        ("device=[cpu]", "device must be a name"),
        ("stack_width.cpu=1,2", "cannot be swept"),
        ("divergence=3", "set one of divergence.factor, divergence.patience"),
        ("+seed.deeper=3", "seed"),
        ("data=text model=lstm", "data.path must be given"),
        ("data=text model=lstm data.path=3", "data.path must be a file's name, got 3"),
        ("model.depth=1000000", "model.depth must be from 0 to 1,000"),
        ("model=wgan data.train=1000000000000", "data.train must be at most 10 million"),
        (
            f"seed={'9' * 400}",
            "seed must be a whole number of 64 bits, got one of 400 digits; give one of at most 18",
        ),
        (f"optimizer.lr={'9' * 400}", "optimizer.lr must be a whole number of 64 bits"),
        ("+model.note='\udcff'", "note must be Unicode text"),
        ("+regularizer.strength.deeper=1", "regularizer.strength must name a key"),
        ("~steps", "the config has no key steps"),
        ("~regularizer", "~regularizer takes away what every regularizer must have; leave it out"),
        ("~optimizer.lr", "~optimizer.lr takes away what every optimizer must have; leave it out"),
        ("~optimizer.lr=0.1", "takes away what every optimizer must have; leave it out"),
        ("~nothing", "nothing"),
        ("~model.metric", "model.metric"),
        ("+x=${nowhere}", "nowhere"),
        ("model@other=mlp", "model@other"),
        ("seed=range(1000) steps=range(1,1002)", "more than 100,000 cells"),
    ],
)
def test_a_mistake_is_refused_in_one_line_that_names_it(words, said):
    assert said in refused(*words.split())


@pytest.mark.parametrize(
    "word",
    [
        "regularizer._target_=os.system",
        "+regularizer._partial_=true",
        "+model._args_=[1]",
        "+_target_=os.system",
        "+model.note._target_.deeper=os.system",
        "+model.note={a:{_target_:os.system}}",
        "+model.note=[1,[{a:{_target_:os.system}}]]",
        "+model.note=[{a:[{_target_:os.system}]}]",
    ],
)
def test_what_code_is_called_is_said_by_a_config_folder_and_nowhere_else(word):
    key, _, value = word.partition("=")
    experiment = Experiment("mine", products=((CONFIGS._axis(key, value),),))
    assert "only a config folder may" in refused(word)
    with pytest.raises(UsageError, match="only a config folder may"):
        cells(experiment=experiment)


@pytest.mark.parametrize(
    "word",
    [
        *(f"{group}.name=foo" for group in CHOSEN),
        "+model.name=foo",
        "regularizer.family=clipping",
        "regularizer=clip_norm regularizer.strength=norm_type",
        "regularizer=gp+clip_norm regularizer.name=x",
        "regularizer=gp+clip_norm regularizer.family=none",
        "regularizer=gp+clip_norm regularizer.strength=gp.lambda",
        "regularizer=gp+clip_norm regularizer.gp.name=foo",
        "regularizer=gp+clip_norm regularizer.gp.family=x",
        "regularizer=gp,none regularizer.family=none",
    ],
)
def test_what_an_option_is_can_only_be_chosen(word):
    said = refused(*word.split())
    changed = word.split()[-1].lstrip("+").partition("=")[0]
    assert said.startswith(f"{changed}=")
    assert f"choose another one with {changed.partition('.')[0]}=NAME" in said


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("_target_: x.y\nname: mine\nstrength: null", r"/mine\.yaml lacks regularizer\.family; CONTRIBUTING"),
        ("_target_: x.y\nname: mine\nfamily: clipper\nstrength: null", "must be one of none, clipping"),
        ("_target_: x.y\nname: mine\nfamily: clipping\nstrength: sigma", "there is no such key"),
        (
            "_target_: x.y\nname: mine\nfamily: clipping\nstrength: sigma\nsigma: high",
            "must be a number, got 'high'",
        ),
        ("name: mine", r"lacks regularizer\._target_, regularizer\.family, regularizer\.strength;"),
    ],
)
def test_a_regularizer_of_ones_own_that_lacks_something_is_refused(tmp_path, yaml, said):
    (tmp_path / "regularizer").mkdir()
    (tmp_path / "regularizer/mine.yaml").write_text(yaml)
    with pytest.raises(UsageError, match=said):
        cells("regularizer=mine", configs=Configs(tmp_path))


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("_target_: x.Y\nname: mine\nmetric: test/loss", "lacks model.goal, model.unit, steps, eval_every;"),
        (
            "# @package _global_\nmodel: {name: mine}\nsteps: 4",
            "lacks model._target_, model.metric, model.goal,",
        ),
        ("_target_: x.Y\nname: mine\nsteps: 4", "has steps among the model's keys; begin it with the line"),
        (
            "model: {name: mine}",
            "has its keys under 'model:' twice; begin it with the line '# @package _global_'",
        ),
    ],
)
def test_a_models_file_that_lacks_keys_or_has_them_elsewhere_is_named_with_all_of_them(tmp_path, yaml, said):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text(yaml)
    with pytest.raises(UsageError, match=f"^{re.escape(f'{tmp_path}/model/mine.yaml {said}')}"):
        cells("model=mine", configs=Configs(tmp_path))


# ---- stacks ----------------------------------------------------------------------------------------------------

GRID = cells(
    *("model=mlp", "regularizer=none,clip_norm,clip_value,gp", "optimizer.lr=0.1,1", "seed=range(7)"),
    *("regularizer.threshold=1,2", "regularizer.lambda=1,2"),
)


def stacked(grid, most=10):
    return [
        stack
        for members in group_by_program(grid)
        for stack in split_into_stacks(members, math.ceil(len(members) / most))
    ]


@settings(max_examples=20)
@given(st.permutations(GRID))
def test_stacks_depend_on_the_cells_and_not_on_their_order(shuffled):
    assert [stack.id for stack in stacked(shuffled)] == [stack.id for stack in stacked(GRID)]


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_stacks_hold_every_cell_once_and_no_more_than_fit(most):
    grouped = stacked(GRID, most)
    assert Counter(cell.id for stack in grouped for cell in stack.cells) == Counter(ids(GRID))
    assert max(len(stack.cells) for stack in grouped) <= most


def test_cells_of_a_stack_differ_in_numbers_alone_and_penalties_stack_among_themselves():
    for stack in stacked(GRID):
        assert len({cell.program for cell in stack.cells}) == 1
        families = {cell.config["regularizer"]["family"] for cell in stack.cells}
        assert families == {"penalty"} or "penalty" not in families


def test_cells_of_one_regularizer_stand_together_in_a_stack():
    for stack in stacked(GRID):
        kinds = [cell.regularizer_program for cell in stack.cells]
        assert len([key for key, _ in itertools.groupby(kinds)]) == len(set(kinds))


def test_a_stack_is_named_after_its_cells():
    one, two = GRID[:2]
    assert Stack((one, two)).id == Stack((two, one)).id != Stack((one,)).id


def test_a_cell_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRID[0].data_sha256 = "other"


def test_cells_share_what_is_equal_and_own_what_differs():
    """What a hundred thousand cells have in common is held once."""
    one, other = cells("regularizer=clip_norm", "regularizer.threshold=1,2", "seed=0")
    assert one.config["data"] is other.config["data"]
    assert one.config["regularizer"] is not other.config["regularizer"]
    assert one.program is other.program
    assert one.regularizer_program is other.regularizer_program


def test_planning_composes_once_per_choice_of_groups_however_many_cells_there_are(monkeypatch):
    """Hydra and OmegaConf are what is slow: thousands of cells must not each go through them."""
    words = [
        "regularizer=clip_norm,gp",
        "regularizer.threshold=range(1,11)",
        "regularizer.lambda=range(1,11)",
    ]
    configs = Configs()
    cells(*words, configs=configs)
    assert configs.compose.cache_info().misses == 2
    monkeypatch.setattr("gradbench.config.compose.OmegaConf", None)
    assert len(cells(*words, "seed=range(20)", configs=configs)) == 400
    assert configs.compose.cache_info().misses == 2
