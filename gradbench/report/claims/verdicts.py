"""Judge the claims of results folders, each from its own files alone, and put the verdicts into words."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench.claims.conditions import ConditionResult
from gradbench.claims.judge import ClaimJudgement, judge_claim
from gradbench.claims.metrics import Evidence
from gradbench.claims.schema import Claim, parse_claims
from gradbench.config.compose import Configs
from gradbench.config.hashing import digest
from gradbench.errors import MAX_LENGTH, DamagedError, UsageError, excerpt
from gradbench.report.load.cells import LoadedResults, config_columns, load_results
from gradbench.report.render.formatting import (
    format_interval,
    format_number,
    format_ratio,
    format_strength,
    join_words,
)
from gradbench.stats.intervals import Interval
from gradbench.storage.grids import (
    MAX_EXPERIMENT,
    cells_of,
    claims_of,
    list_grids,
    read_experiment,
    stated_of,
)
from gradbench.storage.results import Results
from gradbench.storage.sanitize import (
    CONFIG_OPTIONS,
    check_folder,
    escape_controls,
    is_command,
    split_command,
)


@dataclass(frozen=True)
class Verdict:
    """A judged claim and the results folder that it was judged on.

    Attributes:
        experiment: name of the experiment.
        folder: the results folder.
        judgement: the claim, its verdict, and the result under each condition.
        command: the command that made the results; empty where it is unknown.
        stated: whether the claim stood in the experiment's file before the runs that decide it; empty where nobody
            recorded that.
    """

    experiment: str
    folder: Path
    judgement: ClaimJudgement
    command: str
    stated: str = ""

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.judgement.claim

    @property
    def figure(self) -> Path:
        """Path of the claim's figure, beside the tables or in the report; the figure of all claims if it is missing."""
        report = self.folder / "report" / "figures"
        names = f"{self.claim.figure}.png", "claims.png"
        paths = [folder / name for name in names for folder in (self.folder, report)]
        return next(filter(Path.is_file, paths), report / names[0])


def judge_folders(folder: Path, config_dir: Path | None = None) -> tuple[list[Verdict], list[str]]:
    """Judge the claims of a results folder, or of every results folder in a folder.

    Args:
        folder: a results folder, or a folder of them.
        config_dir: the user's own configs, in which an experiment may have changed since.

    Returns:
        The verdicts, and notes to print before them.

    Raises:
        UsageError: there is no results folder, a link in it leads outside, or the claims of one cannot be read.
    """
    check_folder(folder)
    inside = [folder] if is_results(folder) else sorted(filter(is_results, folder.glob("*")))
    if not inside:
        raise UsageError(
            f"no results at {folder}; make some with `gradbench run NAME --results {folder}/NAME`, "
            "or give another folder"
        )
    Configs(config_dir)  # a folder that is not there is refused
    found, notes = [], []
    for results in inside:
        try:
            check_folder(results)
        except UsageError as error:  # one of several folders, which keeps nobody from judging the others
            notes.append(f"not judged: {error}")
            continue
        verdicts = judge_folder(results)
        found += verdicts
        notes += [] if verdicts else [f"{results} has no claims"]
        notes += _note_changes(results, config_dir)
    return found, notes


def judge_folder(results: Path) -> list[Verdict]:
    """Judge every claim in a results folder's ``experiment.yaml``: those of each grid on the cells that it lists.

    A claim that several grids make is judged on the first of them. One that was edited in between is judged both as
    it was and as it became.

    Raises:
        UsageError: the folder holds no cells, its claims cannot be read, or a link in it leads outside.

    """
    check_folder(results)
    claimed, seen = [], list[Claim]()
    for grid in list_grids(read_frozen_experiment(results)):
        spec = grid.get("spec")
        claims = parse_claims(spec if isinstance(spec, dict) else {}, str(results / "experiment.yaml"))
        claimed.append((grid, [claim for claim in claims if claim not in seen]))
        seen += claims
    if not seen:
        return []
    loaded = load_results(results)
    return [
        verdict
        for grid, claims in claimed
        if claims
        for verdict in _judge_grid(results, loaded, grid, claims)
    ]


def _judge_grid(
    results: Path, loaded: LoadedResults, grid: Mapping[str, Any], claims: Sequence[Claim]
) -> list[Verdict]:
    """Judge the claims of one grid of a results folder."""
    cells = loaded.cells
    if grid.get("cells"):
        cells = cells[cells["cell"].isin(cells_of(grid))]
    columns = {claim.metric for claim in claims if claim.reads_curves}
    curves = pd.DataFrame({"cell": [], "step": []})
    if columns:
        curves = Results(results).curves(["cell", "step", *sorted(columns)])
    evidence = Evidence(cells, curves, config_columns(cells), loaded.rounds)
    command, name = grid.get("command"), grid.get("experiment")
    command = escape_controls(str(command)) if is_command(command) else ""
    name = excerpt(escape_controls(name), MAX_LENGTH) if name and isinstance(name, str) else loaded.name
    stated = say_when_stated(grid, cells)
    return [
        Verdict(name, results, judge_claim(claim, evidence), command, stated.get(claim.id, ""))
        for claim in claims
    ]


def say_when_stated(grid: Mapping[str, Any], cells: pd.DataFrame) -> dict[str, str]:
    """Say for each claim of a grid, by its id, whether it stood in the file before the runs that decide it."""
    since = stated_of(grid)
    found = {}
    for claim in claims_of(grid):
        time = since.get(digest(claim))
        if time is None or "finished" not in cells:
            continue
        ended = cells["finished"].dropna().astype(str)
        before = int((ended < time).sum())
        late = f"was written after {before} of {len(ended)} runs had ended"
        found[str(claim["id"])] = late if before else "stood in the file before the runs"
    return found


def is_results(folder: Path) -> bool:
    """Whether a folder is a results folder of an experiment."""
    return (folder / "experiment.yaml").is_file()


def read_frozen_experiment(results: Path) -> Mapping[str, Any]:
    """Read the experiment as it stood when its results were made; empty where the folder has none.

    Raises:
        UsageError: ``experiment.yaml`` cannot be read.

    """
    try:
        frozen = read_experiment(results)
    except DamagedError as error:
        raise UsageError(f"cannot read {error.path} ({error.reason}): run its experiment again") from error
    if not frozen:
        return {}
    spec = frozen.get("spec")
    return {**frozen, "spec": spec if isinstance(spec, dict) else {}}


def _note_changes(results: Path, config_dir: Path | None) -> list[str]:
    """List what has changed in the experiments' own files since the results were made."""
    notes = []
    for grid in list_grids(read_frozen_experiment(results)):
        spec = grid.get("spec")
        try:
            path, configs = _find_file(grid, config_dir)
            if not (isinstance(spec, dict) and path.is_file() and path.stat().st_size <= MAX_EXPERIMENT):
                continue
            now = configs.experiment(str(path)).source
        except OSError:  # what a stranger's command names may be too long for a path
            continue
        except UsageError as error:
            notes.append(f"the experiment's file cannot be compared with {results}: {error}")
            continue
        if changed := [key for key in ("grid", "scales", "claims") if now.get(key) != spec.get(key)]:
            notes.append(
                f"{path} has changed since {results} was made ({', '.join(changed)}): "
                "claims are judged as they stood then"
            )
    return list(dict.fromkeys(notes))


def _find_file(grid: Mapping[str, Any], config_dir: Path | None) -> tuple[Path, Configs]:
    """Find the path of a grid's experiment, which its command names by path or by name, and the configs it uses.

    Args:
        grid: the grid.
        config_dir: the user's own configs; by default the folder that the command names, if it is there.
    """
    command = grid.get("command")
    words = split_command(str(command)) if is_command(command) else []
    named = (word for option, word in itertools.pairwise(words) if option in CONFIG_OPTIONS)
    configs = Configs(config_dir or next(filter(Path.is_dir, map(Path, named)), None))
    files = (
        word
        for before, word in itertools.pairwise(words)
        if word.endswith((".yaml", ".yml")) and "=" not in word and not before.startswith("-")
    )
    return Path(next(files, "") or configs.experiments.get(str(grid.get("experiment")), "")), configs


# ---- words -------------------------------------------------------------------------------------------------


def format_effect(claim: Claim, result: ConditionResult) -> str:
    """Write an effect and the cells lost: ``0.12 [0.02, 0.22]; lost 0 of 6, 4 of 6``."""
    parts = []
    if not math.isnan(result.effect.estimate):
        parts.append(format_claim_interval(claim, result.effect))
    for name, contrast in result.contrasts:
        if any(contrast.lost):
            (lost, control_lost), (n, control_n) = contrast.lost, contrast.present
            counts = f"lost {lost} of {n}, {control_lost} of {control_n}"
            parts.append(f"{counts} {name}".strip())
    return "; ".join(parts) or "–"


def format_claim_interval(claim: Claim, effect: Interval) -> str:
    """Write an effect with its interval, as a difference or a ratio."""
    return (format_ratio if claim.effect == "ratio" else format_interval)(effect)


def format_condition(result: ConditionResult) -> str:
    """Write ``depth = 16, lr = 0.5``; an empty string where a claim has no conditions."""
    return ", ".join(
        f"{_short_key(key)} = {_format_config_value(value)}" for key, value in result.condition.items()
    )


def format_chosen(result: ConditionResult) -> str:
    """Write the settings that the tuning seeds chose: ``treatment: threshold 1; control: lr 0.1``."""
    parts = [
        f"{name}: {', '.join(f'{_short_key(key)} {_format_config_value(value)}' for key, value in setting.items())}"
        for name, setting in result.chosen
    ]
    return "; ".join(parts)


def format_headline(judgement: ClaimJudgement) -> str:
    """Write the verdict of a claim, and those of its conditions where they differ."""
    by_verdict = _conditions_by_verdict(judgement)
    if len(by_verdict) == 1:
        return judgement.verdict
    parts = [f"{verdict} at {'; '.join(where)}" for verdict, where in by_verdict.items()]
    return f"{judgement.verdict}: {' · '.join(parts)}"


def format_evidence(verdict: Verdict) -> str:
    """Write the effect and n of a claim with one condition, or the verdict of each of several conditions."""
    claim, results = verdict.claim, verdict.judgement.results
    if len(results) == 1:
        (result,) = results
        effect = f"effect {format_effect(claim, result)}, n = {result.effect.n}" if result.effect.n else ""
        return " · ".join(filter(None, (effect, *result.notes, verdict.stated)))
    by_verdict = _conditions_by_verdict(verdict.judgement)
    parts = [f"{name} at {join_words(where)}" for name, where in by_verdict.items()]
    parts.append(f"n = {format_strength('', [float(result.effect.n) for result in results])}")
    if not math.isnan(verdict.judgement.overall.estimate):
        overall = format_claim_interval(claim, verdict.judgement.overall)
        parts.append(f"interquartile mean of all {overall}")
    return " · ".join(filter(None, (*parts, verdict.stated)))


def _conditions_by_verdict(judgement: ClaimJudgement) -> dict[str, list[str]]:
    """Group the written conditions of a claim by their verdict."""
    found: dict[str, list[str]] = {}
    for result in judgement.results:
        found.setdefault(result.verdict, []).append(format_condition(result))
    return found


def format_rule(claim: Claim) -> str:
    """Write the rule of a claim: ``difference of test/accuracy: above 0.05``."""
    bound = format_number(claim.smallest_effect)
    where = f"above {bound}" if claim.sign > 0 else f"below {bound}"
    if claim.min_abs_effect is not None:
        center = format_number(claim.no_effect)
        where = f"more than {format_number(claim.min_abs_effect)} from {center}, either way"
    what = {
        "final": claim.metric,
        "mean": f"mean over steps of {claim.metric}",
        "steps_to": f"steps to {format_number(claim.level or 0)} of {claim.metric}",
        "equal_seconds": f"{claim.metric} at equal wall-clock time",
        "distance": f"distance from {format_number(claim.level or 0)} of {claim.metric}",
    }[claim.take]
    of_test = {
        "contrast": f"{claim.effect} of {what}",
        "trend": f"slope of the {claim.effect} of {what}, per tenfold {claim.along}",
        "interior": f"{claim.effect} of {what}, best {claim.along} inside against both ends",
        "shift": f"slope of the best {claim.along} for {what} along {claim.versus}, both logarithms",
    }[claim.test]
    return f"{of_test}: {where}"


def _short_key(key: str) -> str:
    """Return a config key without its group: ``lr`` of ``optimizer.lr``."""
    return escape_controls(key.rsplit(".", 1)[-1])


def _format_config_value(value: object) -> str:
    return format_number(float(value)) if isinstance(value, int | float) else escape_controls(str(value))
