"""Cells small enough to train in a test: every model and regularizer of conf/, and other people's code, sizes turned
down.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from gradbench.config.compose import Axis, Configs, Experiment, Overrides, leaves
from gradbench.config.composite import strength_keys
from gradbench.config.hashing import canonical
from gradbench.config.instantiate import find_function, fingerprint, load_data
from gradbench.data import Data
from gradbench.grid.cell import Cell
from gradbench.grid.expand import expand
from gradbench.models.networks.language_model import CELLS
from gradbench.training.points import offered
from gradbench.training.step import EagerStepper

CONFIGS = Configs()
OWN_CONFIGS = Configs(Path(__file__).with_name("own"))
"""With the tasks that tests/own configures, as a user does."""

SIZES = {
    "model.hidden": 6,
    "model.width": 8,
    "model.layers": 1,
    "model.depth": 2,
    "model.channels": 3,
    "model.code": 3,
    "model.embedding": 5,
    "model.batch_size": 4,
    "model.unroll": 5,
    "model.evaluation_tokens": 40,
    "model.evaluation_examples": 9,
    "model.critic_steps": 2,
    "model.matched_points": 50,
    "model.environments": 2,
    "model.interactions": 6,
    "model.limit": 8,
    "model.epochs": 1,
    "model.minibatches": 2,
    "model.samples": 60,
    "data.limit": 6000,
    "data.length": 10,
    "data.test": 64,
    "data.largest": 140,
    "schedule.warmup": 1,
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

SMOOTH = {"image_gan": {"model.activation": "tanh"}}
"""Model -> settings under which no gradient is rounding errors alone, which adam would make steps of: where each unit
is on one side of its kink for all images, the critic is affine, and no bias of its convolutions changes its loss."""

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
    "denoising": ("denoising", {}),
    "tagger": ("tagging", {}),
    "transformer_translation": ("translation", {"model.architecture": "transformer", "model.heads": 2}),
} | {
    f"{model}_{cell}": (model, {"model.cell": cell, "model.layers": 2})
    for model in ("lstm", "sequence")
    for cell in CELLS
}
"""Networks and tasks of other people's, and recurrent cells on top of each other -> model and settings."""

LARGE = ("resnet18",)
"""Those that take a minute per property: the slow suite holds them to the reference, the exhaustive one to the rest."""

INEXACT = ("autoencoder", "cnn", "image_gan", "resnet", "sequence_transformer")
"""Models whose stacks sum in another order than a cell alone: of convolutions with groups, and of long sequences."""

MODELS, REGULARIZERS, OPTIMIZERS = (CONFIGS.groups[group] for group in ("model", "regularizer", "optimizer"))

SOON = {
    "warmup": {"schedule__warmup": [2, 3]},
    "step": {"schedule__every": [2, 3]},
    "milestones": {"schedule__milestones": [[1, 2]], "schedule__factor": [0.5, 0.1]},
    "linear_decay": {"schedule__final": [0.0, 0.2], "schedule__steps": [12, 20]},
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


def written(group: str, option: str) -> dict[str, object]:
    """Return the dotted keys of a shipped option's YAML and of those that it begins with: Hydra takes far longer."""
    node = yaml.safe_load(CONFIGS.path(group, option).read_text(encoding="utf-8"))
    others = [one for one in node.get("defaults", ()) if isinstance(one, str) and one != "_self_"]
    return {key: value for one in others for key, value in written(group, one).items()} | dict(leaves(node))


PLACED_PAIRS = [
    (model, f"gp@{points}")
    for model in MODELS
    for points in offered(find_function(written("model", model)["model._target_"]))
]
"""Each model with a penalty at each of the points that it offers."""


# ---- which pairs are tried where -----------------------------------------------------------------------------


FAMILY = {name: written("regularizer", name)["family"] for name in REGULARIZERS}
"""Regularizer -> its family."""

FAMILIES = {
    family: [name for name in REGULARIZERS if FAMILY[name] == family]
    for family in sorted(set(FAMILY.values()))
}
"""Family -> its regularizers."""


def pairs_of_families(turn: int) -> list[tuple[str, str]]:
    """Return a pair of each model and each family of regularizers; which of the family changes with the turn."""
    return [
        (model, members[(index + turn) % len(members)])
        for index, model in enumerate(MODELS)
        for members in FAMILIES.values()
    ]


def some_pairs(turn: int) -> list[tuple[str, str]]:
    """Return pairs that hold each model and each regularizer at least once, no more than there are of both.

    As many turns as there are families pair each model with each family.
    """
    of_families = pairs_of_families(turn)
    pairs = [
        of_families[index * len(FAMILIES) + (index + turn) % len(FAMILIES)] for index in range(len(MODELS))
    ]
    left = [name for name in REGULARIZERS if name not in {name for _, name in pairs}]
    return pairs + [(MODELS[(index + turn) % len(MODELS)], name) for index, name in enumerate(left)]


FEW = 4
"""The default suite tries a property on one in so many of the pairs on which the slow suite tries it."""


def few_pairs(turn: int) -> list[tuple[str, str]]:
    """Return some of these pairs: as many turns as ``FEW`` hold each model."""
    return some_pairs(turn)[turn % FEW :: FEW]


ALL_PAIRS = [(model, regularizer) for model in MODELS for regularizer in REGULARIZERS]


def composed_pairs(turn: int) -> list[tuple[str, str]]:
    """Return a pair of each composition, with models by turns."""
    count = len(COMPOSED_PAIRS) // len(COMPOSITIONS)
    return [
        COMPOSED_PAIRS[(index + turn) % count * len(COMPOSITIONS) + index]
        for index in range(len(COMPOSITIONS))
    ]


Case = tuple[str, str]


def in_suites(
    names: str, quick: Iterable[Case], slow: Iterable[Case] = (), all_of_them: Iterable[Case] = ()
) -> pytest.MarkDecorator:
    """Try a test with some cases in the default suite, with further ones in the slow one, and else with all."""
    suites = dict.fromkeys(all_of_them, "exhaustive") | dict.fromkeys(slow, "slow") | dict.fromkeys(quick, "")
    cases = [
        pytest.param(*case, marks=[getattr(pytest.mark, suite)] if suite else [])
        for case, suite in suites.items()
    ]
    return pytest.mark.parametrize(names, cases)


TURNS = 8
"""How many properties with turns of their own try, in the slow suite, all that is not large."""


def each_pair(turn: int) -> pytest.MarkDecorator:
    """Try a property on pairs of a model and a regularizer, most of them in the exhaustive suite.

    The slow suite tries every model and every regularizer, and some of other people's code, with a clip or a penalty,
    of the compositions, of the points of a penalty and of other people's regularizers; the default suite tries some of
    these. Another ``turn`` chooses others: ``TURNS`` together try in the slow suite each model with each family, and of
    what else there is all but what is large; in the default one each model and each regularizer. The number of these
    pairs grows with the number of models, not with the product.
    """
    further = PLACED_PAIRS + ASKING_PAIRS
    kinds = (COMPOSED_PAIRS, PLACED_PAIRS, ASKING_PAIRS)
    further_kind = kinds[turn % len(kinds)]
    quick = [*few_pairs(turn), further_kind[turn % len(further_kind)]]
    others = [name for name in OTHERS if name not in LARGE][turn % 6 :: 6]
    slow = some_pairs(turn) + composed_pairs(turn)[turn % 3 :: 3] + further[turn % TURNS :: TURNS]
    slow += [(name, "gp" if (name, "gp") in OTHER_PAIRS and turn % 2 else "clip_norm") for name in others]
    return in_suites("model, regularizer", quick, slow, ALL_PAIRS + OTHER_PAIRS + COMPOSED_PAIRS + further)


def each_model(turn: int, others: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Try a property with each model, in the default suite with some of them; another ``turn`` chooses others.

    A fourth of other people's code is tried in the slow suite, unless it is large, and all in the exhaustive one.
    """
    further = [name for name in others if name not in LARGE][turn % 4 :: 4]
    quick = [(name,) for name in MODELS[turn % FEW :: FEW]]
    slow = [(name,) for name in [*MODELS, *further]]
    return in_suites("model", quick, slow, [(name,) for name in others])


FURTHER = ("lstm", "wgan", "classifier")
"""Models with which updates are tried, too, beside ``mlp``: they take turns in the slow suite."""


def each_update(*quick: Case) -> pytest.MarkDecorator:
    """Try a property with pairs of a model and an update: in the slow suite all of ``mlp``'s, and another of some."""
    slow = [("mlp", name) for name in UPDATES]
    slow += [(FURTHER[index % len(FURTHER)], name) for index, name in enumerate(UPDATES)][::3]
    all_of_them = [(model, name) for model in ("mlp", *FURTHER) for name in UPDATES]
    return in_suites("model, update", quick, slow, all_of_them)


def default_strengths(regularizer: str) -> dict[str, float]:
    """Return a regularizer's default strengths by their keys: none, one, or those of its parts."""
    regularizer = regularizer.partition("@")[0]
    node = OWN_CONFIGS.compose((f"regularizer={regularizer}",))[0]["regularizer"]
    values = dict(leaves(node))
    return {f"regularizer.{key}": values[key] for key in strength_keys(node)}


@cache
def keys_of(*choices: str) -> frozenset[str]:
    return frozenset(key for key, _ in leaves(OWN_CONFIGS.compose(choices)[0]))


def cells(model: str, regularizer: str, **values: object) -> list[Cell]:
    """Return the cells of a small grid; a list is an axis. Dots in keys are written as double underscores.

    ``gp@real`` is a penalty at these points.
    """
    regularizer, _, points = regularizer.partition("@")
    values = ({"regularizer__points": points} if points else {}) | values
    model, network = OTHERS.get(model, (model, NETWORKS.get(model, {}) | SMOOTH.get(model, {})))
    given = {key.replace("__", "."): value for key, value in values.items()}
    data = (network | given).get("data")
    known = keys_of(f"model={model}", *([f"data={data}"] if isinstance(data, str) else []))
    sizes = {key: value for key, value in SIZES.items() if key in known}
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
