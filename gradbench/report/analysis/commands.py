"""Write the command that goes on from an answer: more seeds, or a wider axis."""

import shlex

from gradbench.report.analysis.comparison import ComparisonGroup, Setting
from gradbench.report.load.cells import LoadedResults
from gradbench.storage.sanitize import is_command

FACTOR = 3.0  # between strengths of an axis of one value


def add_seeds(results: LoadedResults, comparison: ComparisonGroup, count: int) -> str:
    """Write the command that trains the sweep with ``count`` seeds, those that are there among them; empty if "
    "unknown."""
    command = next((one for one in reversed(results.commands) if is_command(one)), "")
    first = min(comparison.seeds)
    seeds = f"seed=range({count})" if first == 0 else f"seed=range({first},{first + count})"
    return _change(command, results, {"seed": seeds})


def extend_strengths(results: LoadedResults, comparison: ComparisonGroup, best: Setting) -> str:
    """Write the command that goes on beyond a best strength at the end of its axis; empty if it is not at one."""
    if best.strength is None:
        return ""
    own = [one.strength for one in comparison.settings if one.treatment == best.treatment]
    axis = sorted(value for value in own if value)
    if not axis or best.strength not in (axis[0], axis[-1]):
        return ""
    lowest = best.strength == axis[0]
    factor = FACTOR
    if len(axis) > 1:
        factor = axis[1] / axis[0] if lowest else axis[-1] / axis[-2]
    steps = [best.strength / factor**i if lowest else best.strength * factor**i for i in (1, 2)]
    command = comparison.cells_at(best).iloc[0].get("command")
    seeds = f"seed=range({min(comparison.seeds)},{max(comparison.seeds) + 1})".replace("range(0,", "range(")
    key = f"regularizer.{best.quantity}"
    values = ",".join(str(float(f"{step:.3g}")).removesuffix(".0") for step in sorted(steps))
    return (
        _change(str(command), results, {key: f"{key}={values}", "seed": seeds}) if is_command(command) else ""
    )


def _change(command: str, results: LoadedResults, words: dict[str, str]) -> str:
    """Replace words of a command by their keys, and name the results folder."""
    if not command:
        return ""
    given, kept = iter(shlex.split(command)), []
    for word in given:
        if word == "--results":
            next(given, None)
        elif word.partition("=")[0] not in words and not word.startswith("--results="):
            kept.append(word)
    return shlex.join([*kept, *words.values(), "--results", str(results.path)])
