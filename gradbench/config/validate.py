"""Validate resolved configs before cells are made of them."""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradbench.config.compose import GROUPS, LAUNCHER, Config, leaves
from gradbench.config.composite import (
    GIVEN_LATER,
    JOINT,
    TARGET,
    is_composition,
    is_dotted_name,
    regularizers_of,
    strength_keys,
    typed,
)
from gradbench.config.neutral import NEUTRAL
from gradbench.config.overrides import Axis, literal
from gradbench.errors import UsageError

REQUIRED = {
    "model": ("name", "metric", "goal", "unit"),
    "data": ("name",),
    "regularizer": ("name", "family", "strength"),
    "optimizer": ("name", "lr"),
    "schedule": ("name",),
}
"""Group -> keys that each of its options must have, beside ``_target_``."""

BUDGET = ("steps", "eval_every")
"""Keys that each model's file must give beside its group."""

WIDTH = (
    "auto or a whole number >= 1",
    lambda v: v == "auto" or (isinstance(v, int) and v >= 1),
    "auto fits it to cache or memory",
)


def is_ascending(value: Any) -> bool:
    """Return whether a value is a list of positive whole numbers, each larger than the one before."""
    is_list = isinstance(value, list) and all(type(one) is int for one in value)
    return is_list and all(one < other for one, other in itertools.pairwise([0, *value]))


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1."""
    return isinstance(value, int | float) and value >= 1 and value % 1 == 0


POSITIVE_OR_NULL = (
    "> 0 and finite, or null",
    lambda v: v is None or 0 < v < math.inf,
    "null is what the cluster gives",
)

RULES: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "regularizer.threshold": ("> 0", lambda v: v > 0, "use regularizer=none to switch clipping off"),
    "regularizer.lambda": (
        ">= 0 and finite",
        lambda v: 0 <= v < math.inf,
        "use regularizer=none to switch it off",
    ),
    "regularizer.percentile": ("in (0, 100]", lambda v: 0 < v <= 100, "10 is the paper's, 100 never clips"),
    "regularizer.z": ("> 0", lambda v: v > 0, "2.5 is the paper's, inf never clips"),
    "optimizer.lr": ("> 0 and finite", lambda v: 0 < v < math.inf, "give a learning rate like 0.1"),
    "schedule.warmup": (">= 0 and whole", lambda v: v >= 0 and v % 1 == 0, "0 switches it off"),
    "schedule.every": (">= 1", lambda v: 1 <= v < math.inf, "give a number of steps like 100"),
    "schedule.factor": ("> 0 and finite", lambda v: 0 < v < math.inf, "give a factor like 0.1"),
    "schedule.milestones": (
        "ascending whole numbers >= 1",
        is_ascending,
        "give numbers of steps like [150,225]",
    ),
    "schedule.final": ("in [0, 1]", lambda v: 0 <= v <= 1, "give a share of optimizer.lr like 0.1"),
    "schedule.steps": (">= 1", lambda v: 1 <= v < math.inf, "give a number of steps like 300"),
    "accumulate": ("from 1 to 256", lambda v: 1 <= v <= 256, "1 updates after every batch"),
    "seed": (">= 0", lambda v: v >= 0, "give a whole number like 0"),
    "steps": (">= 1", lambda v: v >= 1, "give a whole number like 300"),
    "eval_every": (">= 1", lambda v: v >= 1, "give a whole number like 50"),
    "record_every": (">= 1", lambda v: v >= 1, "1 records every step"),
    "divergence.factor": ("> 1", lambda v: v > 1, "inf counts only losses that are not finite"),
    "divergence.fall": (
        "in (0, 1), or null",
        lambda v: v is None or 0 < v < 1,
        "0.8 is the loss of four fifths of the best metric",
    ),
    "divergence.patience": (">= 1", lambda v: v >= 1, "give a number of steps like 50"),
    "checkpoint_seconds": (">= 0", lambda v: v >= 0, "0 saves at every chunk of steps, inf never"),
    "stack_width.cpu": WIDTH,
    "stack_width.cuda": WIDTH,
    "stack_width.mps": WIDTH,
    "model.depth": ("from 0 to 1,000", lambda v: 0 <= v <= 1000, "give a number of layers like 4"),
    "model.layers": ("from 1 to 1,000", lambda v: 1 <= v <= 1000, "give a number of layers like 1"),
    "model.goal": ("min or max", lambda v: v in ("min", "max"), "max where a higher value is better"),
    "model.metric": ("a metric's name", lambda v: bool(v.strip()), "give one like test/loss"),
    "model.targets": (
        "one of null, classes, numbers, none",
        lambda v: v in (None, "classes", "numbers", "none"),
        "null is what data.targets says",
    ),
    "model.scale": (
        "one of log, logit, linear",
        lambda v: v in ("log", "logit", "linear"),
        "linear suits any metric",
    ),
    "model.margin": (
        "> 0, or null",
        lambda v: v is None or 0 < v < math.inf,
        "null never calls two treatments equal",
    ),
    "model.weights": (
        "a file's name or null",
        lambda v: v is None or isinstance(v, str),
        "a name that is a number is written ./3",
    ),
    "data.train": ("at most 10 million", lambda v: v <= 10**7, "give a number of points like 65536"),
    "data.test": ("at most 10 million", lambda v: v <= 10**7, "give a number of points like 4096"),
    "data.path": ("a file's name", lambda v: isinstance(v, str), "a name that is a number is written ./3"),
    "device": ("a name", lambda v: isinstance(v, str), "give auto, cpu, cuda, cuda:1 or mps"),
    "launcher.parallel": (
        ">= 1 and whole, or null",
        lambda v: v is None or is_count(v),
        "null is as many as fit",
    ),
    "launcher.gpus": (">= 0", lambda v: v >= 0, "0 trains on CPU cores"),
    "launcher.cpus": (">= 1", lambda v: v >= 1, "give a number of cores like 4"),
    "launcher.memory_gb": POSITIVE_OR_NULL,
    "launcher.device_memory_gb": POSITIVE_OR_NULL,
    "launcher.minutes": (">= 1", lambda v: v >= 1, "give a time limit like 240"),
    "launcher.task_minutes": ("> 0 and finite", lambda v: 0 < v < math.inf, "give a time like 10"),
    "launcher.tries": (">= 1", lambda v: v >= 1, "2 submits again once what a task left"),
    **dict.fromkeys(
        [f"launcher.{key}" for key in ("partition", "account", "qos", "constraint", "python")],
        ("a word, or null", lambda v: v is None or not isinstance(v, list | bool), "give one, not a list"),
    ),
    "launcher.device": (
        "one of null, cpu, cuda",
        lambda v: v in (None, "cpu", "cuda"),
        "null is cuda where there are launcher.gpus",
    ),
    "tracker": (
        "one of null, tensorboard, mlflow",
        lambda v: v in (None, "tensorboard", "mlflow"),
        "null shows runs nowhere else",
    ),
    "regularizer.players": (
        "a network's name, both or null",
        lambda v: v is None or isinstance(v, str),
        "null is the network that the model says",
    ),
    "regularizer.family": (
        "one of none, clipping, penalty, projection",
        lambda v: v in ("none", "clipping", "penalty", "projection"),
        "say in its YAML what it acts on",
    ),
    "precision": (
        "one of float32, float64, bfloat16",
        lambda v: v in ("float32", "float64", "bfloat16"),
        "float32 is the default",
    ),
}
"""Key -> description of the allowed values, test (which NaN fails), and advice."""


OPTIONAL = ("regularizer.", "model.", "data.", "schedule.", "launcher.")
"""Prefixes of keys that not every option of a group has."""

FIXED = re.compile(
    rf"(?:{'|'.join([*GROUPS, LAUNCHER])})\.name|regularizer\.(?:[^.]+\.)?(?:name|family|strength)"
)
"""Matches a key that says what an option is; it cannot be changed without choosing another."""

INSTRUCTION = re.compile(r"(?:^|\.)_(?:target|args|partial|recursive|convert)_(?:\.|$)")
"""Matches a key that tells Hydra what code to call, and how."""


COLUMNS = frozenset(
    (
        *("cell", "command", "data_sha256", "step_program", "format", "status", "diverged_at", "error"),
        *("step_seconds", "seconds", "width", "exact", "started", "finished", "arrays_bytes", "curve_rows"),
        *("gradbench", "torch", "python", "device_name", "git_commit", "git_dirty"),
    )
)
"""Columns of the table of cells beside configs and metrics; ``device`` is a key that no table of configs has."""

CheckedLeaves = set[tuple[str, type, Any]]
"""Leaves (key, type, value) that passed the check: thousands of cells share nearly all of them."""


def check_config(config: Config, written: Mapping[str, Any], passed: CheckedLeaves) -> None:
    """Raise ``UsageError`` unless a config describes a valid cell.

    Args:
        config: nested, resolved.
        written: dotted key -> value in the config folders, and of the words that may name code.
        passed: leaves that passed before with the same ``written``; updated in place.

    Raises:
        UsageError: naming the key, the value, what was expected and what to type.
    """
    values = dict(leaves(config))
    for key, value in values.items():
        if isinstance(value, list):  # not hashable
            check_leaf(key, value, written)
        elif (mark := (key, type(value), value)) not in passed:
            check_leaf(key, value, written)
            passed.add(mark)
    for key in COLUMNS.intersection(config):
        raise UsageError(f"{key} is a column of the table of cells and cannot be a key; choose another name")
    for group, keys in REQUIRED.items():
        node = config[group]
        for key in keys:
            if key not in ("strength", "lr") and not isinstance(node[key], str):
                raise UsageError(f"{group}.{key} must be a word, got {literal(node[key])}; leave it as it is")
    check_regularizer(config["regularizer"])
    parts = [at for at in regularizers_of(config["regularizer"]) if at]
    for key, (expected, allowed, remedy) in RULES.items() if not parts else rules_of_parts(parts):
        if key not in values:
            if key.startswith(OPTIONAL):
                continue
            raise UsageError(f"the config has no key {key}; {remedy}")
        try:
            fine = allowed(values[key])
        except TypeError:
            fine = False
        if not fine:
            raise UsageError(f"{key} must be {expected}, got {literal(values[key])}; {remedy}")
    check_schedule(values, written)


def check_groups(config: Config, files: Mapping[str, Path], words: Collection[str] = ()) -> None:
    """Refuse options whose files lack keys, naming all of them, or have keys at a place where they are not read.

    Args:
        config: nested, before interpolations are resolved.
        files: group -> file of its chosen option.
        words: typed ones, of which ``~KEY`` deletes what a file has.

    Raises:
        UsageError: naming the file, the keys, and where they belong.
    """
    deleted = {word.lstrip("~").partition("=")[0]: word for word in words if word.startswith("~")}
    top = "begin it with the line '# @package _global_', write the model's keys under 'model:', and"
    for group, keys in REQUIRED.items():
        node, file = config.get(group), files.get(group)
        for key in (group, *(f"{group}.{name}" for name in (TARGET, *keys))):
            if key in deleted:
                raise UsageError(f"{deleted[key]} takes away what every {group} must have; leave it out")
        if not isinstance(node, dict) or file is None:
            raise UsageError(f"the config has no {group} with a _target_; choose one with {group}=…")
        if group == "model" and isinstance(node.get("model"), dict):
            raise UsageError(
                f"{file} has its keys under 'model:' twice; begin it with the line '# @package _global_'"
            )
        for key in BUDGET:
            if group == "model" and key in node and config.get(key) == GIVEN_LATER:
                raise UsageError(f"{file} has {key} among the model's keys; {top} {key} beside it")
        if missing := [f"{group}.{key}" for key in (TARGET, *keys) if key not in node]:
            missing += [key for key in BUDGET if group == "model" and config.get(key) == GIVEN_LATER]
            raise UsageError(f"{file} lacks {', '.join(missing)}; CONTRIBUTING.md shows a whole file")


def unread_keys(composed: Mapping[str, Any], axes: Iterable[Axis]) -> list[tuple[str, Any]]:
    """Return the keys that nothing reads, with what they were given.

    A key is read as an argument (groups refuse those that they do not know), by a rule, or by an interpolation.

    Args:
        composed: dotted key -> value before interpolations are resolved.
        axes: what is set beside them.
    """
    set_here = [leaf for axis in axes for value in axis.values for leaf in leaves({axis.key: value})]
    given = [*composed.items(), *set_here]
    texts = (str(value) for _, value in given)
    read = {name for text in texts if "${" in text for name in re.findall(r"[^\W\d]\w*", text)}
    return [
        (key, value)
        for key, value in given
        if key not in RULES and key.partition(".")[0] not in read.union(GROUPS, [LAUNCHER])
    ]


def check_leaf(key: str, value: Any, written: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for a value that no table can store, or that names code outside a config folder.

    Raises:
        UsageError: naming the key.
    """
    if is_beyond_int64(value):
        raise UsageError(
            f"{key} must be a whole number of 64 bits, got one of {len(str(value))} digits; give one of at most 18"
        )
    try:
        f"{key}{value}".encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{key} must be Unicode text, got {literal(value)}; write it in UTF-8") from error
    if NEUTRAL in key.split("."):
        raise UsageError(
            f"{key}: only a config folder says which values are neutral; write 'neutral: {{KEY: VALUE}}' beside the "
            "key in its YAML file"
        )
    if isinstance(value, list) and value == written.get(key) and any(map(has_instruction, value)):
        raise UsageError(
            f"{key} names code in a list, which is not supported; give each piece a key of its own"
        )
    if INSTRUCTION.search(key) and "${" in str(written.get(key)):
        raise UsageError(f"{key} must be written out, got {literal(written[key])} in its YAML file")
    named = INSTRUCTION.search(key) and value != written.get(key)
    if named or (isinstance(value, list) and any(map(has_instruction, value))):
        raise UsageError(
            f"{key} says what code is called, and only a config folder may: write it into "
            "FOLDER/GROUP/mine.yaml, then --config-dir FOLDER GROUP=mine"
        )
    if FIXED.fullmatch(key) and "${" not in str(written.get(key, value)) and value != written.get(key, value):
        group = key.partition(".")[0]
        raise UsageError(
            f"{key}={literal(value)}: it says what an option is, and only its YAML file may; leave it out, or choose "
            f"another one with {group}=NAME"
        )
    if key.rpartition(".")[2] == TARGET and not is_dotted_name(value):
        raise UsageError(
            f"{typed(key)} must be a dotted name like my_pkg.Net, got {literal(value)} in its YAML file"
        )


def is_beyond_int64(value: Any) -> bool:
    """Return whether a value is an integer that does not fit into 64 bits."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def has_instruction(value: Any) -> bool:
    """Return whether an element of a list contains a key that tells Hydra what to call."""
    if isinstance(value, list):
        return any(map(has_instruction, value))
    if not isinstance(value, Mapping):
        return False
    return any(INSTRUCTION.search(key) for key, _ in leaves(value)) or any(
        map(has_instruction, value.values())
    )


def rules_of_parts(parts: Sequence[str]) -> Iterator[tuple[str, tuple[str, Callable[[Any], bool], str]]]:
    """Yield the rules, those of a regularizer for each part of a composition, too."""
    for key, rule in RULES.items():
        yield key, rule
        group, _, name = key.partition(".")
        if group == "regularizer":
            yield from ((f"{group}.{at}{name}", rule) for at in parts)


def check_regularizer(node: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` unless each regularizer has a strength that is a number, or none, and every key is read.

    Raises:
        UsageError: naming the key and the value.
    """
    if not is_composition(node):
        return check_strength(node, "")
    whole = all(isinstance(node.get(part), dict) for part in str(node["name"]).split(JOINT))
    if not whole or (node["strength"] or "") != JOINT.join(strength_keys(node)):
        raise UsageError(
            f"regularizer.name={literal(node['name'])} and regularizer.strength={literal(node['strength'])} do not "
            "suit the parts of a composition; leave both out"
        )
    parts = regularizers_of(node)
    for at, part in parts.items():
        check_strength(part, at)
    for key in node.keys() - {"name", "family", "strength", TARGET, *(at.rstrip(".") for at in parts)}:
        if isinstance(node[key], dict):
            raise UsageError(
                f"{key} is no part of regularizer={node['name']}; write it as {node['name']}+{key}"
            )
        raise UsageError(
            f"nothing reads regularizer.{key}={literal(node[key])}; a key of a part is written "
            f"regularizer.{next(iter(parts))}{key}"
        )
    return None


def check_strength(regularizer: Mapping[str, Any], at: str) -> None:
    """Raise ``UsageError`` unless the key that ``strength`` names holds a number.

    Args:
        regularizer: a single one.
        at: prefix of its keys.

    Raises:
        UsageError: naming the key and the value.
    """
    key = regularizer["strength"]
    if key is None:
        return
    if not isinstance(key, str):
        raise UsageError(f"regularizer.{at}strength must name a key, got {literal(key)}; leave it as it is")
    value = regularizer.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        given = f"got {literal(value)}" if key in regularizer else "and there is no such key"
        raise UsageError(
            f"regularizer.{at}{key}, its strength, must be a number, {given}; give regularizer.{at}{key}=1"
        )


def check_schedule(values: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for a number that no schedule reads, or a warm-up longer than training or schedule.

    Args:
        values: dotted key -> value.
        written: those of the config folders: a schedule's function reads the numbers of its YAML alone.

    Raises:
        UsageError: naming the keys and their values.
    """
    for key, value in values.items():
        if key.startswith("schedule.") and isinstance(value, int | float) and key not in written:
            raise UsageError(
                f"nothing reads {key}={literal(value)}: schedule={values['schedule.name']} has no "
                f"{key.removeprefix('schedule.')}; leave it out"
            )
    warmup = values.get("schedule.warmup", 0)
    for key in ("steps", "schedule.steps"):
        if warmup > values.get(key, math.inf):
            raise UsageError(
                f"schedule.warmup={literal(warmup)} is longer than {key}={literal(values[key])}: the learning rate "
                f"would never reach optimizer.lr; give schedule.warmup={int(values[key]) // 10}, or more steps"
            )
