"""Write the command that goes on from an answer: more seeds, or a wider axis."""

import shlex
from collections.abc import Sequence

from gradbench.config.composite import JOINT
from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.load.cells import NONE, LoadedResults
from gradbench.storage.sanitize import is_command

CHOICE = "regularizer="
FACTOR = 3.0  # between strengths of an axis of one value


def add_seeds(results: LoadedResults, comparison: ComparisonGroup, count: int) -> str:
    """Write the command that trains the sweep with ``count`` seeds, those that are there among them.

    It is the last one that trained all treatments of the comparison, or the last one; empty if unknown.
    """
    commands = [one for one in reversed(results.commands) if is_command(one)]
    whole = (one for one in commands if _covers(one, comparison))
    command = next(whole, commands[0] if commands else "")
    first = min(comparison.seeds)
    words = {"seed": _seed_word(range(first, first + count))}
    if results.cells["model"].nunique() > 1:  # seeds of the others are decided by themselves
        words["model"] = f"model={comparison.model}"
    return _change(command, results, words)


def run_seeds(
    results: LoadedResults, comparison: ComparisonGroup, setting: Setting, seeds: Sequence[int]
) -> str:
    """Write the command that trains a setting that there is at other seeds; empty if unknown."""
    return _change(_command_of(comparison, setting), results, {"seed": _seed_word(seeds)})


def extend_strengths(results: LoadedResults, comparison: ComparisonGroup, best: Setting) -> str:
    """Write the command that goes on beyond a best strength at the end of its axis; empty if it is not at one.

    Of a composition, beyond each strength that is; the others stay.
    """
    own = [_strengths_of(one) for one in comparison.settings if one.treatment == best.treatment]
    axes = [sorted(set(filter(None, values))) for values in zip(*own, strict=True)]
    words = {}
    for key, value, axis in zip(best.quantity.split(JOINT), _strengths_of(best), axes, strict=False):
        steps = _steps_beyond(value, axis) if len(axes) == 1 or len(axis) > 1 else []
        if steps:
            name = f"regularizer.{key}"
            words[name] = f"{name}={','.join(steps)}"
    if not words:
        return ""
    words["seed"] = _seed_word(comparison.seeds)
    return _change(_command_of(comparison, best), results, words)


def _strengths_of(setting: Setting) -> tuple[float, ...]:
    return setting.strengths or (() if setting.strength is None else (setting.strength,))


def _steps_beyond(value: float, axis: Sequence[float]) -> list[str]:
    """Write two values beyond one that is at the end of its axis, sorted; none if it is not."""
    if not axis or value not in (axis[0], axis[-1]):
        return []
    lowest = value == axis[0]
    factor = FACTOR
    if len(axis) > 1:
        factor = axis[1] / axis[0] if lowest else axis[-1] / axis[-2]
    steps = sorted(value / factor**i if lowest else value * factor**i for i in (1, 2))
    return [str(float(f"{step:.3g}")).removesuffix(".0") for step in steps]


def add_none(command: str, results: LoadedResults, comparison: ComparisonGroup, best: Setting) -> str:
    """Let a command train ``none`` too; without one, that of a setting at all its seeds. Empty if unknown."""
    command = command or run_seeds(results, comparison, best, comparison.seeds)
    name = next((word for word in shlex.split(command) if word.startswith(CHOICE)), "")
    if not name:
        return ""
    return _change(command, results, {CHOICE[:-1]: f"{CHOICE}{NONE},{name.removeprefix(CHOICE)}"})


def _covers(command: str, comparison: ComparisonGroup) -> bool:
    """Return whether a command trains all treatments of a comparison: it names them all, or an experiment does."""
    names = {name for word in shlex.split(command) if word.startswith(CHOICE) for name in _choices(word)}
    return not names or {treatment.partition(" (")[0] for treatment in comparison.treatments} <= names


def _choices(word: str) -> list[str]:
    return word.removeprefix(CHOICE).split(",")


def _command_of(comparison: ComparisonGroup, setting: Setting) -> str:
    """Return the command that reruns a cell of a setting; empty if unknown."""
    command = comparison.cells_at(setting).iloc[0].get("command")
    return str(command) if is_command(command) else ""


def _seed_word(seeds: Sequence[int]) -> str:
    """Write seeds, sorted, as a word: a range where none is left out."""
    first, last = seeds[0], seeds[-1]
    if len(seeds) < last - first + 1:
        return f"seed={','.join(map(str, seeds))}"
    return f"seed=range({last + 1})" if first == 0 else f"seed=range({first},{last + 1})"


def _change(command: str, results: LoadedResults, words: dict[str, str]) -> str:
    """Replace words of a command by their keys, and name the results folder.

    Empty if there is none, or if it needs code that stands in no file: no other process finds that.
    """
    if not command or "=__main__." in command:
        return ""
    given, kept = iter(shlex.split(command)), []
    for word in given:
        if word == "--results":
            next(given, None)
        elif word.partition("=")[0] not in words and not word.startswith("--results="):
            kept.append(word)
    return shlex.join([*kept, *words.values(), "--results", str(results.path)])
