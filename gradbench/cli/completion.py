"""Shell completion: experiments, groups and their options, results folders."""

from collections.abc import Sequence
from pathlib import Path


def complete_words(incomplete: str, words: Sequence[str], folder: Path | None) -> list[str]:
    """Complete experiments, group names and their options.

    Args:
        incomplete: the word that is being typed.
        words: the words before it.
        folder: folder of the user's own configs.
    """
    from gradbench.config.compose import Configs

    configs = Configs(folder if folder and folder.is_dir() else None)
    group, equals, given = incomplete.partition("=")
    # bash splits group=option into three words and completes the last one
    if not equals and list(words[-1:]) == ["="]:
        group, equals, given, before = words[-2], "=", incomplete, ""
    else:
        before = f"{group}="
    if equals:
        chosen, comma, _ = given.rpartition(",")
        before += chosen + comma
        candidates = [before + option for option in configs.groups.get(group, [])]
    else:
        candidates = [*configs.experiments, *(f"{name}=" for name in configs.groups)]
    return [word for word in candidates if word.startswith(incomplete)]


def complete_folders(incomplete: str) -> list[str]:
    """Complete results folders; a name that a terminal would obey is left out."""
    folders = [str(path.parent) for path in Path("results").glob("*/cells")]
    return [folder for folder in folders if folder.startswith(incomplete) and folder.isprintable()]


def complete_kinds(incomplete: str) -> list[str]:
    """Complete the kinds that ``gradbench info`` can list."""
    from gradbench.cli.catalog import KINDS

    return [kind for kind in (*KINDS, "experiments") if kind.startswith(incomplete)]
