"""Say what to type instead of a key that nothing reads."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from gradbench.config.compose import GROUPS, Configs, leaves
from gradbench.config.composite import JOINT, PLAYERS, REGULARIZER
from gradbench.config.overrides import literal
from gradbench.config.validate import FIXED, INSTRUCTION
from gradbench.errors import UsageError, nearest

OPTIONS = {
    "results": "--results FOLDER",
    "results_dir": "--results FOLDER",
    "output": "--results FOLDER",
    "output_dir": "--results FOLDER",
    "jobs": "--jobs N",
    "workers": "--jobs N",
    "config_dir": "--config-dir FOLDER",
    "dry_run": "--dry-run",
}
"""Word -> the option of the command line that says it."""


def say_unread(
    configs: Configs,
    key: str,
    values: Sequence[Any],
    known: Iterable[str],
    choices: Mapping[str, Collection[str]],
) -> str:
    """Return one line on a key that nothing reads, and what to type instead.

    Args:
        configs: to look for options that have the key.
        key: as it was typed.
        values: what it was given.
        known: dotted keys that the cells have.
        choices: group -> its chosen options.
    """
    known = [one for one in known if not (FIXED.fullmatch(one) or INSTRUCTION.search(one))]
    given = f"nothing reads {key}={','.join(map(literal, values))}"
    if key in OPTIONS:
        return f"{given}; it is an option: {OPTIONS[key]}"
    if key == "seeds":
        count = values[0] if len(values) == 1 and isinstance(values[0], int) else 5
        return f"{given}; did you mean 'seed=range({count})'?"
    if key.startswith("launcher.options."):
        return f"{given}; type +{key}: a further option of sbatch is added"
    group, _, name = key.partition(".")
    if name and group in choices:
        return f"{given}: {say_options(configs, group, name, known, choices[group])}"
    # a key without its group, or with a wrong one
    last = key.rpartition(".")[2]
    keys = sorted(one for one in known if one.rpartition(".")[2] == last)
    if keys:
        return f"{given}; did you mean {' or '.join(map(repr, keys))}?"
    for group in GROUPS:
        if not FIXED.fullmatch(f"{group}.{last}") and options_with(configs, group, last):
            which = say_options(configs, group, last, known, choices.get(group, ()))
            return f"{given}; did you mean '{group}.{last}'? {which}"
    return f"{given}{nearest(key, known) or '; leave it out'}"


def say_options(
    configs: Configs, group: str, name: str, known: Iterable[str], chosen: Collection[str]
) -> str:
    """Return which options of a group have a key, where the chosen ones do not."""
    chosen_now = f"{group}={','.join(sorted(chosen))}"
    part, _, key = name.partition(".")
    known_parts = {one for option in chosen for one in option.split(JOINT)} | {"none"}
    if group == REGULARIZER and key and part in set(configs.groups[group]) - known_parts:
        more = JOINT.join([*(one for one in sorted(chosen)[:1] if one != "none"), part])
        return f"{chosen_now} has no part {part}; choose {group}={more}"
    is_part = group == REGULARIZER and bool(key) and part in known_parts
    having = options_with(configs, group, key if is_part else name)
    if having:
        which = f"{part} has no {key}" if is_part else f"{chosen_now} has no {name}"
        return f"{which}, and {', '.join(having)} {'have' if len(having) > 1 else 'has'} it"
    own = [one for one in known if one.startswith(f"{group}.") and not is_node(one, known)]
    alone = next(iter(chosen), "") if len(chosen) == 1 else ""
    listed = f"; `gradbench info {alone}` lists its keys" if alone and JOINT not in alone else ""
    return f"{chosen_now} has no {name}{nearest(f'{group}.{name}', own) or listed}"


def is_node(key: str, known: Iterable[str]) -> bool:
    """Return whether there are keys below a key, so that it takes no value itself."""
    return any(one.startswith(f"{key}.") for one in known)


def options_with(configs: Configs, group: str, name: str) -> list[str]:
    """Return the options of a group whose file has a key."""
    found, last = [], name.rpartition(".")[2]
    for option in configs.groups.get(group, ()):
        text = configs.path(group, option).read_text(encoding="utf-8", errors="replace")
        is_written = any(word in text for word in (last, "defaults:")) or last == PLAYERS  # which all have
        if not is_written:
            continue  # composing takes longer than looking
        with contextlib.suppress(UsageError):  # a broken file of the user's folder is not what was asked for
            node = configs.compose((f"{group}={option}",)).config.get(group)
            if isinstance(node, dict) and name in dict(leaves(node)):
                found.append(option)
    return found
