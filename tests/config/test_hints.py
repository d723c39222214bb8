"""What is read by nothing is refused, with what to type; interpolations and ranges are read as Hydra documents them."""

from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gradbench.config.compose import Configs, Experiment
from gradbench.config.overrides import Axis
from gradbench.errors import UsageError, nearest
from gradbench.grid.expand import expand

CONFIGS = Configs()


def cells(*words, configs=CONFIGS):
    return expand(configs, Experiment("x"), configs.parse(list(words)), lambda _: "unread")


def refused(*words):
    with pytest.raises(UsageError) as caught:
        cells(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("+lr=1", "nothing reads lr=1; did you mean 'optimizer.lr'?"),
        ("lr=1", "nothing reads lr=1; did you mean 'optimizer.lr'?"),
        ("+seeds=3", "did you mean 'seed=range(3)'?"),
        ("batch_size=8", "did you mean 'model.batch_size'?"),
        ("optimzer=adam", "did you mean 'optimizer'?"),
        (
            "model=transformer model.context=9",
            "model=transformer has no context; `gradbench info transformer` lists",
        ),
        ("results=here", "it is an option: --results FOLDER"),
        ("name=foo", "nothing reads name='foo'; leave it out"),
        ("+wandb=true", "nothing reads wandb=true; leave it out"),
        ("+divergence.fator=3", "did you mean 'divergence.factor'?"),
        ("divergence={factr:2}", "did you mean 'divergence.factor'?"),
        ("threshold=1", "did you mean 'regularizer.threshold'? regularizer=none has no threshold, and agc,"),
        ("regularizer.threshold=1", "regularizer=none has no threshold, and agc, block_rms, clip_norm,"),
        ("regularizer=none,gp regularizer.z=1", "regularizer=gp,none has no z, and zclip has it"),
        (
            "regularizer=gp+clip_norm regularizer.clip_norm.every=4",
            "nothing reads regularizer.clip_norm.every=4: clip_norm has no every, and gp, gp_lp, gp_max, gp_zero have",
        ),
        ("regularizer=clip_norm regularizer.clip_norm.every=4", "clip_norm has no every, and gp, gp_lp,"),
        (
            "regularizer=gp+clip_norm regularizer.clip_nrm=1",
            "has no clip_nrm; did you mean 'regularizer.clip_norm.players'?",
        ),
        (
            "model=wgan regularizer.players=both",
            "regularizer=none has no players, and agc, autoclip, block_rms,",
        ),
        ("regularizer=gp regularizer.lamda=1", "did you mean 'regularizer.lambda'?"),
        (
            "model=mlp unroll=3",
            "did you mean 'model.unroll'? model=mlp has no unroll, and language_model, lstm, transformer have",
        ),
        ("model=LSTM", "did you mean 'lstm'?"),
        ("hydra/launcher=joblib", "workers are --jobs N"),
        ("data.path=a=b.txt", """quote a value with such letters: 'data.path="a=b.txt"'"""),
        ("data.path=a#b", """'data.path="a#b"'"""),
        ("data.path=é", """'data.path="é"'"""),
        ("optimizer.lr=${oc.env:HOME}", "nothing else can be looked up"),
        ("optimizer.lr=[${optimizer.lr}]", "nothing else can be looked up"),
        ("optimizer.lr=${model.lr}", "optimizer.lr=${model.lr}: there is no key model.lr; did you mean"),
        ("optimizer.lr=${optimizer.lr}", "optimizer.lr=${optimizer.lr} leads back to itself"),
        ("seed=${model.name}", "seed must be a whole number, got 'mlp'"),
        ("optimizer.lr=range(1,1.00000000000000003,0.00000000000000001)", "has"),
    ],
)
def test_what_nothing_reads_or_nobody_can_read_is_refused_with_what_to_type(words, said):
    assert said in refused(*words.split())


def test_a_quoted_value_is_read_as_it_is_said_to_be_typed():
    for name in ("a=b.txt", "a#b", "é", "a b", "x,y"):
        (cell,) = cells("model=lstm", "data=text", f'data.path="{name}"')
        assert cell.config["data"]["path"] == name


def test_a_missing_file_of_an_experiment_is_called_a_missing_file():
    with pytest.raises(
        UsageError, match=r"there is no file my\.yaml; give an experiment's file, or one of: a2c,"
    ):
        CONFIGS.experiment("my.yaml")


def test_a_key_of_ones_own_is_read_where_another_refers_to_it(tmp_path):
    (cell,) = cells("+units=9", "model.hidden=${units}")
    assert cell.config["model"]["hidden"] == 9
    (tmp_path / "model").mkdir()
    shipped = CONFIGS.path("model", "mlp").read_text()
    assert "hidden: 64" in shipped
    text = shipped.replace("hidden: 64", "hidden: ${units}").replace("name: mlp", "name: mine")
    (tmp_path / "model" / "mine.yaml").write_text(text + "\nunits: 7\n")
    configs = Configs(tmp_path)
    assert {cell.config["model"]["hidden"] for cell in cells("model=mine", "units=7,8", configs=configs)} == {
        7,
        8,
    }
    (tmp_path / "model" / "mine.yaml").write_text(text.replace("${units}", "5") + "\nunit: 7\n")
    with pytest.raises(UsageError, match="nothing reads unit=7"):
        cells("model=mine", configs=Configs(tmp_path))


def test_an_interpolation_couples_axes_and_gives_the_ids_of_the_values_it_stands_for():
    coupled = cells("regularizer=clip_norm", "optimizer.lr=0.1,1", "regularizer.threshold=${optimizer.lr}")
    pairs = [(cell.config["optimizer"]["lr"], cell.config["regularizer"]["threshold"]) for cell in coupled]
    assert pairs == [(0.1, 0.1), (1.0, 1.0)]
    plain = [
        cell
        for lr in ("0.1", "1")
        for cell in cells("regularizer=clip_norm", f"optimizer.lr={lr}", f"regularizer.threshold={lr}")
    ]
    assert [cell.id for cell in coupled] == [cell.id for cell in plain]
    whole = cells("eval_every=${steps}", "steps=10,20")
    assert [cell.config["eval_every"] for cell in whole] == [10, 20]


finite = st.integers(-9, 9) | st.decimals(-9, 9, places=2)


@settings(max_examples=100, deadline=None)
@given(finite, finite, finite)
def test_a_range_has_the_points_that_decimals_have(start, stop, step):
    assume(step)
    expected, at = [], Decimal(start)
    while at < stop if step > 0 else at > stop:
        expected.append(float(at))
        at += step
    assume(0 < len(expected) < 1000)
    axis = CONFIGS.parse([f"optimizer.lr=range({start},{stop},{step})"]).axes[0]
    assert list(axis.values) == expected
    assert len(set(axis.values)) == len(axis.values)


def test_a_whole_range_stays_whole():
    assert CONFIGS.parse(["seed=range(5,0,-2)"]).axes == (Axis("seed", (5, 3, 1)),)
    assert CONFIGS.parse(["seed=range(3)"]).axes == (Axis("seed", (0, 1, 2)),)


@pytest.mark.parametrize(
    ("given", "known", "said"),
    [
        ("test/accuracy", ["test/read", "test/token_accuracy"], "test/token_accuracy"),
        ("test/accuracy", ["test/read"], ""),
        ("model.context", ["model.unit", "seed"], ""),
        ("tset/loss", ["test/loss", "test/read"], "test/loss"),
        ("train/lss", ["test/loss", "train/read"], "test/loss"),
    ],
)
def test_what_two_names_begin_with_makes_them_no_more_alike(given, known, said):
    assert nearest(given, known) == (f"; did you mean '{said}'?" if said else "")
