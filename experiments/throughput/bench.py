"""Measure gradbench against plain PyTorch under Hydra; entry point of ``make bench``.

    python experiments/throughput/bench.py [--rounds 3] [--basic-rounds 1] [--parts mlp,wgan,lstm,whole,transformer,…]

Each measurement is a whole command from a cold process. Commands run in rounds, in a new random order each, so that
other load on the machine affects all alike; ratios are taken within a round. ``whole`` is ``gradbench run quick`` with
its report; for the plain scripts it is the sum of their three parts in the same round. ``mlp``, ``wgan`` and ``lstm``
are cells of ``quick``; ``transformer``, ``cnn`` and ``actor_critic`` are 16 cells, with and without clipping, which
gradbench trains in stacks as it chooses, and one by one (``stack_width.cpu=1``). The further parts are scripts in this
folder, whose docstrings say what they measure.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import agreement
import pandas as pd
import peak
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
MODELS = ("mlp", "wgan", "lstm")
STACKED = {"transformer": "steps=100", "cnn": "steps=200", "actor_critic": "steps=20"}
"""Further models, which gradbench trains in stacks and one by one, and their budgets."""

TREATMENTS = {
    "gradbench": ("regularizer=none,clip_norm", "regularizer.threshold=1"),
    "joblib": ("treatment=[none,0],[clip_norm,1]",),
}
"""Treatments of these models, in the words of gradbench and of the plain scripts."""

PEERS = ("joblib", "basic")
ONE_BY_ONE = "one_by_one"
OURS = ("gradbench", ONE_BY_ONE)
TARGETS = {
    ("mlp", "joblib"): 6.0,
    ("mlp", "basic"): 10.0,
    ("wgan", "joblib"): 4.0,
    ("wgan", "basic"): 7.0,
    ("lstm", "joblib"): 1.1,
    ("lstm", "basic"): 2.0,
    ("whole", "joblib"): 3.0,
    ("whole", "basic"): 6.0,
    **{(part, who): 1.0 for part in STACKED for who in ("joblib", ONE_BY_ONE)},
}
"""(part, peer) -> speed-up that gradbench's stacks aim at."""

FURTHER = ("peak", "waiting", "scaling", "passes", "saturation", "gpu")
"""Further scripts, run one after the other."""

BESIDE = {"": (*MODELS, "whole"), "stacked": tuple(STACKED)}
"""Folder below that of the results -> what is measured beside plain scripts and stored there."""

PARTS = (*BESIDE[""], *STACKED, *FURTHER)

KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""Make glibc keep freed memory, as gradbench's workers do themselves; it speeds a plain script up by up to 6 %."""

QUICK_CHECK = {"run": ["steps=20", "seed=0"], "further": ["--rounds", "1"], "waiting": ["--cells", "300"]}
"""Arguments added to the commands for a test of the bench itself."""


def command(part: str, who: str, folder: Path, further: Sequence[str]) -> list[str]:
    """Return the command line of one measurement."""
    words = list(further)
    if part in STACKED:
        words = [
            *TREATMENTS["gradbench" if who in OURS else who],
            *(further or (STACKED[part], "seed=range(8)")),
        ]
    if who not in OURS:
        hydra = ["--multirun", f"model={part}", f"folder={folder}", f"hydra/launcher={who}"]
        return [sys.executable, str(HERE / "peer.py"), *hydra, *words]
    words += [] if part in STACKED else ["quick"]
    words += [] if part == "whole" else [f"model={part}", "--no-report"]
    words += ["stack_width.cpu=1"] if who == ONE_BY_ONE else []
    # the plain scripts time nothing afterwards
    return [sys.executable, "-m", "gradbench", "run", *words, "--no-cost", "--results", str(folder)]


def training_seconds(who: str, folder: Path) -> float:
    """Return the seconds of training alone, summed over stacks or jobs."""
    if who in OURS:
        parts = (folder / "cells").glob("*.parquet")
        return float(sum(pd.read_parquet(part, columns=["seconds"])["seconds"].iloc[0] for part in parts))
    return float(sum(json.loads(path.read_text())["seconds"] for path in folder.glob("*.json")))


def measure(part: str, who: str, folder: Path, further: Sequence[str]) -> dict[str, Any]:
    """Run one command and return its row."""
    before, load = resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg()[0]
    started = time.perf_counter()
    done = subprocess.run(
        command(part, who, folder, further),
        cwd=folder.parent,
        env=os.environ | KEEPING,
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(done.args)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    training = training_seconds(who, folder)
    return {"wall": wall, "cpu": cpu, "training": training, "load_before": load}


def tasks(parts: Sequence[str], basic: bool, number: int) -> list[tuple[str, str]]:
    """Return the measurements of a round, in random order."""
    contestants = ("gradbench", *(PEERS if basic else PEERS[:1]))
    chosen = [(part, who) for part in parts if part in MODELS for who in contestants]
    chosen += [("whole", "gradbench")] if "whole" in parts else []
    chosen += [(part, who) for part in parts if part in STACKED for who in (*OURS, "joblib")]
    random.Random(number).shuffle(chosen)
    return chosen


def run(parts: Sequence[str], options: argparse.Namespace, scratch: Path, console: Console) -> pd.DataFrame:
    """Run all rounds, and return one row per command."""
    rows = []
    for number in range(1, options.rounds + 1):
        for part, who in tasks(parts, number <= options.basic_rounds, number):
            folder = scratch / f"{part}-{who}-{number}"
            further = QUICK_CHECK["run"] if options.quick_check else ()
            row = {"round": number, "part": part, "who": who} | measure(part, who, folder, further)
            rows.append(row)
            console.print(
                f"round {number}: {part:12} {who:10} {row['wall']:7.1f} s, of training {row['training']:7.1f} s"
            )
    return pd.DataFrame(rows)


def with_whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the plain scripts' ``whole``, the sum of their parts, for rounds with all three parts."""
    sums = []
    for (number, who), group in rows[rows.who.isin(PEERS)].groupby(["round", "who"]):
        if set(group.part) == set(MODELS):
            total = group[["wall", "cpu", "training"]].sum().to_dict()
            sums.append({"round": number, "part": "whole", "who": who, **total})
    return pd.concat([rows, pd.DataFrame(sums)], ignore_index=True)


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Return gradbench's speed-up for each part and peer: medians and ranges over rounds.

    Seconds of training alone are summed over workers, because the basic launcher's one process uses one core only.
    """
    ours, found = rows[rows.who == "gradbench"], []
    for (part, who), target in TARGETS.items():
        pairs = ours.merge(rows[rows.who == who], on=["part", "round"], suffixes=("", "_peer"))
        pairs = pairs[pairs.part == part]
        ratio = pairs.wall_peer / pairs.wall
        if len(ratio):
            found.append(
                {
                    "part": part,
                    "peer": who,
                    "rounds": len(ratio),
                    "gradbench_s": pairs.wall.median(),
                    "peer_s": pairs.wall_peer.median(),
                    "ratio": ratio.median(),
                    "lowest": ratio.min(),
                    "highest": ratio.max(),
                    "target": target,
                    "training_ratio": (pairs.training_peer / pairs.training).median(),
                }
            )
    return pd.DataFrame(found)


def show(table: pd.DataFrame, console: Console) -> None:
    """Print the ratios and their targets."""
    shown = Table(
        title="Seconds from a cold process, medians; how many times faster gradbench is, and its range"
    )
    for column in (
        "part",
        "peer",
        "rounds",
        "gradbench",
        "peer's",
        "ratio",
        "range",
        "target",
        "training alone",
    ):
        shown.add_column(column, justify="left" if column in ("part", "peer") else "right")
    for row in table.itertuples():
        numbers = [str(row.rounds), f"{row.gradbench_s:.1f} s", f"{row.peer_s:.1f} s", f"{row.ratio:.2f}"]
        spread = [f"{row.lowest:.2f}-{row.highest:.2f}", f"{row.target:g}", f"{row.training_ratio:.2f}"]
        shown.add_row(str(row.part), str(row.peer), *numbers, *spread)
    console.print(shown)


def machine() -> dict[str, Any]:
    """Describe the machine, the versions and the command."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
    ]
    packages = ("torch", "hydra-core", "hydra-joblib-launcher", "joblib", "numpy")
    return {
        "command": " ".join(["python", "experiments/throughput/bench.py", *sys.argv[1:]]),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(
        description="Measure gradbench beside plain PyTorch under Hydra, and by itself."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--basic-rounds", type=int, default=1, help="rounds that include the basic launcher")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument(
        "--quick-check", action="store_true", help="everything as short as can be, stored nowhere"
    )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"--parts takes {', '.join(PARTS)}; got {', '.join(sorted(unknown))}")
    console = Console(width=max(110, Console().width))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = scratch / "results" if options.quick_check else peak.RESULTS
        for stem, known in BESIDE.items():
            if parts := [part for part in options.parts if part in known]:
                beside(parts, options, scratch, folder / stem, console)
        for part in FURTHER:
            if part in options.parts:
                measure_by(part, folder, options.quick_check)


def beside(
    parts: Sequence[str], options: argparse.Namespace, scratch: Path, folder: Path, console: Console
) -> None:
    """Measure gradbench against the plain scripts; print and store the results."""
    rows = with_whole(run(parts, options, scratch, console))
    agreed = agreement.of_last_rounds(scratch, [part for part in parts if part != "whole"])
    table = ratios(rows)
    show(table, console)
    agreement.show(agreed, console)
    folder.mkdir(parents=True, exist_ok=True)
    for frame, stem in ((rows, "bench"), (agreed, "agreement")):
        frame.to_csv(folder / f"{stem}.csv", index=False, float_format="%.4g")
    about = machine() | {"ratios": json.loads(table.round(3).to_json(orient="records"))}
    (folder / "bench.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def measure_by(part: str, folder: Path, quick_check: bool) -> None:
    """Run one of the further scripts, which prints and stores its results itself."""
    words = [sys.executable, str(HERE / f"{part}.py"), "--folder", str(folder)]
    if quick_check:
        words += [*QUICK_CHECK["further"], *QUICK_CHECK.get(part, ())]
    subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
