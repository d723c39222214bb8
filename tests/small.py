"""Cells small enough to train in a test: every model and regularizer of conf/, and other people's code, sizes turned
down.
"""

from functools import cache
from pathlib import Path

import pytest
import torch

from gradbench.config.compose import Axis, Configs, Experiment, Overrides
from gradbench.config.composite import strength_keys
from gradbench.config.hashing import canonical
from gradbench.config.instantiate import find_function, fingerprint, load_data
from gradbench.data import Data
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.training.points import offered
from gradbench.training.step import EagerStepper

CONFIGS = Configs()
OWN_CONFIGS = Configs(Path(__file__).with_name("own"))
"""With the tasks that tests/own configures, as a user does."""

SIZES = {
    "model.hidden": 6,
    "model.depth": 2,
    "model.embedding": 5,
    "model.batch_size": 4,
    "model.unroll": 5,
    "model.evaluation_tokens": 200,
    "model.critic_steps": 2,
    "model.matched_points": 50,
    "data.limit": 6000,
    "data.length": 10,
    "steps": 20,
    "eval_every": 20,
}
"""Applied where a config has the key."""

NETWORKS = {
    "classifier": {"model.network": "networks.CNN"},
    "language_model": {"model.network": "networks.GRU"},
    "regressor": {"model.network": "networks.MLP"},
}
"""Model -> a network of the tests' own, for those that have none."""

CRITIC = {"model.networks.critic": "networks.SpectralCritic"}
GENERATOR = {"model.networks.generator": "networks.NormedGenerator"}
OTHERS = {
    "resnet18": (
        "classifier",
        {"model.network": "networks.resnet", "model.batch_size": 8, "steps": 3, "eval_every": 3},
    ),
    "shaped": ("classifier", {"model.network": "networks.Shaped"}),
    "normed": ("classifier", {"model.network": "networks.Normed"}),
    # the gradient of a key's bias is rounding errors alone, which adam would make steps of
    "gpt": ("language_model", {"model.network": "networks.GPT", "optimizer": "sgd"}),
    "recollection": ("language_model", {"model.network": "networks.Recollection"}),
    "spectral_critic": ("wgan", CRITIC),
    "normed_generator": ("wgan", GENERATOR),
    "spectral_critic_and_normed_generator": ("wgan", CRITIC | GENERATOR),
    "autoencoder": ("denoising", {}),
    "tagger": ("tagging", {}),
}
"""Networks and tasks of other people's -> model and settings."""

MODELS, REGULARIZERS, OPTIMIZERS = (CONFIGS.groups[group] for group in ("model", "regularizer", "optimizer"))

SOON = {
    "warmup": {"schedule__warmup": [2, 3]},
    "step": {"schedule__every": [2, 3]},
    "milestones": {"schedule__milestones": [[1, 2]], "schedule__factor": [0.5, 0.1]},
    "cosine": {"schedule__final": [0.0, 0.2], "schedule__steps": [12, 20]},
    "warmup_cosine": {"schedule__warmup": [2, 3]},
    "inverse_sqrt": {"schedule__warmup": [2, 3]},
}
"""Schedule -> numbers with which it acts within a few steps."""

UPDATES = (
    {f"optimizer={name}": {"optimizer": name} for name in OPTIMIZERS}
    | {
        f"schedule={name}": {"schedule": name} | SOON.get(name, {})
        for name in CONFIGS.groups["schedule"]
        if name != "constant"
    }
    | {"accumulate=3": {"accumulate": 3}}
)
"""Name -> settings of what happens to a gradient: each optimizer, each schedule, and several batches per update."""

QUICK_UPDATES = (
    "optimizer=lion",
    "optimizer=muon",
    "schedule=step",
    "schedule=warmup_cosine",
    "accumulate=3",
)
"""Those that the default suite tries with each property; the slow one tries all."""

every_update = pytest.mark.parametrize(
    "update",
    [
        pytest.param(update, id=name, marks=[] if name in QUICK_UPDATES else pytest.mark.slow)
        for name, update in UPDATES.items()
    ],
)

OTHER_PAIRS = [
    (name, regularizer)
    for name in OTHERS
    for regularizer in ("clip_norm", "gp")
    if (name, regularizer) != ("tagger", "gp")  # whole numbers cannot be moved
]


COMPOSITIONS = (
    "gp+clip_norm",
    "clip_value+clip_norm",
    "clip_norm+weight_clip",
    "gp+gp_lp+zclip",
    "agc+spectral_norm",
)
"""Some regularizers that compose others: of each pair of families, of one family, and with a state."""

COMPOSED_PAIRS = [(model, name) for model in ("mlp", "wgan", "lstm") for name in COMPOSITIONS]

ASKING_PAIRS = [
    ("mlp", "bounded_update"),
    ("wgan", "skip_spikes"),
    ("lstm", "skip_spikes"),
    ("lstm", "gp+skip_spikes+bounded_update"),
    ("mlp", "gp+skip_spikes+bounded_update"),
]
"""Regularizers of other people's that ask for the loss and the learning rate."""

PLACED_PAIRS = [
    (model, f"gp@{points}")
    for model in MODELS
    for points in offered(find_function(CONFIGS.compose((f"model={model}",))[0]["model"]["_target_"]))
]
"""Each model with a penalty at each of the points that it offers."""


def default_strengths(regularizer: str) -> dict[str, float]:
    """Return a regularizer's default strengths by their keys: none, one, or those of its parts."""
    from gradbench.config.compose import leaves

    regularizer = regularizer.partition("@")[0]
    node = OWN_CONFIGS.compose((f"regularizer={regularizer}",))[0]["regularizer"]
    values = dict(leaves(node))
    return {f"regularizer.{key}": values[key] for key in strength_keys(node)}


def each_pair(turn: int) -> pytest.MarkDecorator:
    """Try a property on pairs of a model and a regularizer, most of them in the slow suite.

    The default suite tries every regularizer with one model and every model with a share of the regularizers. Another
    ``turn`` chooses other pairs, so that properties with as many turns as there are models cover all pairs together.
    The slow suite tries all pairs; of the models that take a network, which share their code, each with a clip and with
    a penalty; and other people's code, with one of these by turns. Each turn tries some of the compositions, some of
    the points of a penalty, and some of other people's regularizers.
    """
    pairs = []
    for i, model in enumerate(MODELS):
        for j, regularizer in enumerate(REGULARIZERS):
            if (i + j + turn) % len(MODELS) == 0:
                pairs.append(pytest.param(model, regularizer))
            elif model not in NETWORKS or regularizer in ("clip_norm", "gp"):
                pairs.append(pytest.param(model, regularizer, marks=pytest.mark.slow))
    others = [
        pytest.param(*pair, marks=pytest.mark.slow)
        for index, pair in enumerate(OTHER_PAIRS)
        if index % 2 == turn % 2
    ]
    composed = [
        pytest.param(*pair, marks=[] if (index + turn) % every == 0 else pytest.mark.slow)
        for kind, every in ((COMPOSED_PAIRS, 7), (PLACED_PAIRS, 7), (ASKING_PAIRS, 3))
        for index, pair in enumerate(kind)
    ]
    return pytest.mark.parametrize(("model", "regularizer"), pairs + composed + others)


def all_pairs(*regularizers: str) -> list[object]:
    """Return all pairs of a model and some regularizers; those of networks of one's own mostly for the slow suite."""
    return [
        pytest.param(
            model,
            regularizer,
            marks=[pytest.mark.slow] if model in NETWORKS and regularizer not in ("clip_norm", "gp") else [],
        )
        for model in MODELS
        for regularizer in regularizers
    ]


@cache
def keys_of(*choices: str) -> frozenset[str]:
    from gradbench.config.compose import leaves

    return frozenset(key for key, _ in leaves(OWN_CONFIGS.compose(choices)[0]))


def cells(model: str, regularizer: str, **values: object) -> list[Cell]:
    """Return the cells of a small grid; a list is an axis. Dots in keys are written as double underscores.

    ``gp@real`` is a penalty at these points.
    """
    regularizer, _, points = regularizer.partition("@")
    values = ({"regularizer__points": points} if points else {}) | values
    model, network = OTHERS.get(model, (model, NETWORKS.get(model, {})))
    given = {key.replace("__", "."): value for key, value in values.items()}
    sizes = {key: value for key, value in SIZES.items() if key in keys_of(f"model={model}")}
    fixed = {"model": model, "regularizer": regularizer.split(","), "precision": "float64"}
    settings = fixed | sizes | network | given
    axes = tuple(
        Axis(key, tuple(value) if isinstance(value, list) else (value,), may_name_code=True)
        for key, value in settings.items()
    )
    is_shipped = model in MODELS and {part for one in settings["regularizer"] for part in one.split("+")} <= {
        *REGULARIZERS
    }
    configs = CONFIGS if is_shipped else OWN_CONFIGS
    return expand(configs, Experiment("small"), Overrides(axes), fingerprint)


@cache
def _data(config: str) -> Data:
    import json

    return load_data({"data": json.loads(config)})


def data_of(cell: Cell) -> Data:
    """Return a cell's data, loaded once per test session."""
    return _data(canonical(cell.config["data"]))


CPU = torch.device("cpu")


def advance(context, state, draws, telemetry):
    """Take one training step of all cells of a stack."""
    EagerStepper(context).advance(state, draws, telemetry)


DEAR = ("grad_norm_used", "clipped", "cosine", "update_norm")
"""Series that are measured at some steps only of what may bend a gradient."""
