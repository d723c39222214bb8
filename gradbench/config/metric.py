"""Goal, label, scale and margin of the metric that is compared, where it is not the one of the model's YAML file."""

from collections.abc import Iterable, Mapping
from typing import Any

from gradbench.config.composite import TARGET
from gradbench.config.overrides import literal
from gradbench.config.sources import OWN
from gradbench.errors import UsageError

GOALS: dict[str, str | None] = {
    **dict.fromkeys(
        ("loss", "mse", "noisy_mse", "mae", "perplexity", "bits_per_character", "wasserstein"), "min"
    ),
    **dict.fromkeys(("gap/loss", "gap/accuracy", "gradient_norm_deviation"), "min"),
    **dict.fromkeys(("accuracy", "fgsm_accuracy", "r2", "solved", "modes", "quality", "classes"), "max"),
    **dict.fromkeys(("frechet_distance", "class_divergence"), "min"),
    **dict.fromkeys(("return", "mean_return", "explained_variance"), "max"),
    **dict.fromkeys(("environment_steps", "entropy", "approximate_kl", "clip_fraction"), None),
    **dict.fromkeys(("exact_match", "token_accuracy", "bleu"), "max"),
    **dict.fromkeys(("gradient_norm", "layer_growth", "wasserstein_estimate", "read", "unknown"), None),
    **dict.fromkeys(("critic_difference", "classifier_accuracy", "frechet_floor"), None),
}
"""Metric that gradbench's models report, without its split -> its goal; ``None`` where that depends on the question."""

SCALES: dict[str, str] = {
    **dict.fromkeys(
        ("loss", "mse", "noisy_mse", "mae", "perplexity", "bits_per_character", "wasserstein"), "log"
    ),
    **dict.fromkeys(("accuracy", "fgsm_accuracy", "quality", "exact_match", "token_accuracy"), "logit"),
    "frechet_distance": "log",
}
"""Metric, without its split -> the scale that it is averaged and compared on; ``linear`` if it is not here."""

MARGINS: dict[str, float | None] = {"log": 0.01, "logit": 0.01, "linear": None}
"""Scale -> the change that is too small to matter, where nobody says: 1 % of it, or 0.01 of a share."""

LEAST = {"perplexity": 1.0}
"""Metric on a log scale, without its split -> its smallest value, where that is not 0."""

FOLLOWING = ("model.goal", "model.unit", "model.scale", "model.margin")
"""Keys that say what a metric means."""


def scale_of(metric: str) -> str:
    """Return the scale of a metric of gradbench's models, named with its split: ``log``, ``logit`` or ``linear``."""
    split, _, name = metric.rpartition("/")
    return "linear" if split == "gap" else SCALES.get(name, "linear")


def least_of(metric: str) -> float:
    """Return the smallest value of a metric on a log scale, named with its split."""
    return LEAST.get(metric.rpartition("/")[2], 0.0)


def reported_names(models: Iterable[Mapping[str, Any]]) -> set[str] | None:
    """Return the names, with their splits, of all metrics that gradbench's models and these models' own may report.

    ``None`` if one of the models is a task of the user's own, which may report any.
    """
    names = {name.partition("/")[2] if name.startswith("gap/") else name for name in GOALS}
    for model in models:
        if is_own(model):
            return None
        names |= set(model.get("metrics") or {})
    return {f"{split}/{name}" for split in ("train", "test", "gap") for name in names}


def follow_metric(
    config: Mapping[str, Any], defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> list[str]:
    """Let what a model says of its metric follow the metric, in place, where another one was given and they were not.

    Args:
        config: nested; its ``model`` is changed.
        defaults: dotted key -> value in the config folders.
        given: dotted key -> value that was typed, or that the experiment has.

    Returns:
        The overrides of these keys that must be typed again although they have the defaults' values.

    Raises:
        UsageError: if nobody knows whether a higher or a lower value of the metric is better.
    """
    model, metric = config.get("model"), given.get("model.metric")
    if not isinstance(model, dict) or not isinstance(metric, str) or metric == defaults.get("model.metric"):
        return []
    split, _, name = metric.rpartition("/")
    if "model.unit" not in given:
        model["unit"] = ", ".join(filter(None, (name, split)))
    if "model.goal" not in given:
        goal = GOALS.get(metric, GOALS.get(name, None if is_own(model) else model.get("goal")))
        if goal is None or name in (model.get("metrics") or {}):
            raise UsageError(f"model.metric={metric} needs a goal: add model.goal=min or model.goal=max")
        model["goal"] = goal
    own = name in (model.get("metrics") or {}) or is_own(model)
    if "model.scale" not in given:
        model["scale"] = "linear" if own else scale_of(metric)
    if "model.margin" not in given:
        model["margin"] = MARGINS.get(str(model["scale"]))
    keys = [key for key in FOLLOWING if key in given and given[key] == defaults.get(key)]
    return [f"{key}={literal(given[key])}" for key in keys]


def is_own(model: Mapping[str, Any]) -> bool:
    """Return whether a model's task is not gradbench's, so that it may report any metric."""
    return str(model.get(TARGET)).partition(".")[0] != OWN
