"""A results folder with known effects, written as a run would write it but without training anything."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from gradbench.storage.costs import write_costs

EVIL = "<script>alert('x')</script>&\"$y_1$"
"""A name that would do something where it is not shown as text."""

MODELS: dict[str, dict[str, Any]] = {
    "lstm": {
        "metric": "test/perplexity",
        "goal": "min",
        "unit": "perplexity, test",
        "data": "text",
        "none": 14.0,
        "spread": 0.15,
        "effect": {"clip_norm": -2.5, "clip_value": -1.5, "gp": 0.4},
        "all_none_diverge": True,
    },
    "mlp": {
        "metric": "test/accuracy",
        "goal": "max",
        "unit": "accuracy, test",
        "data": "digits",
        "none": 0.95,
        "spread": 0.006,
        "effect": {},
    },
    "wgan": {
        "metric": "test/wasserstein",
        "goal": "min",
        "unit": "Wasserstein-1 distance, test",
        "data": "gaussians8",
        "none": 0.42,
        "spread": 0.02,
        "effect": {"gp": -0.3, "clip_value": 0.05},
        "arrays": True,
    },
}
KEYS = {"clip_norm": "threshold", "clip_value": "threshold", "gp": "lambda"}
STRENGTHS: dict[str, Sequence[float]] = {
    "none": (),
    "clip_norm": (0.1, 0.5, 1.0, 5.0),
    "clip_value": (0.01, 0.1, 0.5, 1.0),
    "gp": (0.1, 1.0, 10.0, 100.0),
}
COST = {"none": 1.0, "clip_norm": 1.03, "clip_value": 1.01, "gp": 2.1}


def write(
    folder: Path,
    *,
    models: Sequence[str] = ("lstm", "mlp", "wgan"),
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    seeds: int = 3,
    steps: int = 30,
    statuses: Mapping[str, str] | None = None,
    change: Mapping[str, Any] | None = None,
    leaves: Mapping[str, Any] | None = None,
    part: str = "a",
    timed: bool = True,
) -> pd.DataFrame:
    """Write cells, curves and arrays; return the cells.

    ``statuses`` forces a status per regularizer ("*" for all), ``change`` overwrites provenance columns and
    ``leaves`` config leaves of every cell; ``timed``: whether steps were timed after the sweep.
    """
    rng = np.random.default_rng(7)
    rows, curves = [], []
    for model in models:
        for regularizer, swept in strengths.items():
            for strength in swept or (None,):
                for seed in range(seeds):
                    row = _cell(model, regularizer, strength, seed, rng, statuses or {}, steps, leaves or {})
                    rows.append({**row, **(change or {})})
                    curves.append(_curve(row, model, rng))
                    if MODELS[model].get("arrays"):
                        _arrays(folder, row, rng)
    cells = pd.DataFrame(rows)
    for name, table in (("cells", cells), ("curves", pd.concat(curves, ignore_index=True))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / name / f"{part}.parquet", index=False)
    for model in models if timed else ():
        write_costs(folder, costs(cells[cells["model"] == model]))
    spec = {"experiment": folder.name, "question": "Clip, penalise or leave alone?"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump({**spec, "command": "gradbench run quick"}))
    return cells


def costs(
    cells: pd.DataFrame, rounds: int = 12, measured: str = "2026-11-22T08:02:50+00:00"
) -> list[dict[str, Any]]:
    """Return the rows of the table of costs: each program's step takes as long as ``COST`` says, times the round's."""
    rng = np.random.default_rng(3)
    programs = cells.drop_duplicates("step_program")
    has_control = "none" in set(programs["regularizer"])
    found = []
    for index in range(rounds):
        slowness = 1 + rng.random()
        for _, row in programs.iterrows():
            ratio = COST.get(row["regularizer"], 1.2) * (
                1 + 0.01 * rng.normal() * (row["regularizer"] != "none")
            )
            found.append(
                {
                    **{
                        name: row[name]
                        for name in ("step_program", "model", "regularizer", "device", "gradbench")
                    },
                    "round": index,
                    "step_seconds": 1e-3 * ratio * slowness,
                    "step_ratio": ratio if has_control else np.nan,
                    "width": 6,
                    "steps": 10,
                    "measured": measured,
                }
            )
    return found


def _cell(
    model: str,
    regularizer: str,
    strength: float | None,
    seed: int,
    rng: np.random.Generator,
    statuses: Mapping[str, str],
    steps: int,
    leaves: Mapping[str, Any],
) -> dict[str, Any]:
    spec = MODELS[model]
    swept = STRENGTHS.get(regularizer) or (1.0,)
    middle = np.log10(swept[len(swept) // 2])
    away = 0.0
    if strength is not None and 0 < strength < np.inf:
        away = float(abs(np.log10(strength) - middle))
    diverged = regularizer == "none" and spec.get("all_none_diverge", False)
    diverged |= model == "lstm" and strength == 5.0 and seed != 1
    status = statuses.get(regularizer, statuses.get("*", "diverged" if diverged else "completed"))
    value = spec["none"] + spec["effect"].get(regularizer, 0.0) * max(0.0, 1 - 0.4 * away)
    value += spec["spread"] * (np.random.default_rng(seed).normal() + 0.4 * rng.normal())
    value = float(np.clip(value, None, 0.995)) if spec["goal"] == "max" else float(value)
    key = KEYS.get(regularizer)
    name = f"{model}{regularizer}{strength}{seed}{sorted(leaves.items())}"
    seconds = 1e-3 * COST.get(regularizer, 1.2) * (1 + 0.02 * rng.normal())
    text = regularizer if key is None else f"{regularizer} regularizer.{key}={strength}"
    return {
        "cell": hashlib.sha256(name.encode()).hexdigest()[:16],
        "model": model,
        "model.metric": spec["metric"],
        "model.goal": spec["goal"],
        "model.unit": spec["unit"],
        "model.width": 64,
        "data": spec["data"],
        "regularizer": regularizer,
        "regularizer.strength": key,
        "regularizer.threshold": strength if key == "threshold" else None,
        "regularizer.lambda": strength if key == "lambda" else None,
        "optimizer": "sgd",
        "optimizer.lr": 1.0 if model == "lstm" else 0.05,
        "steps": steps,
        "seed": seed,
        "precision": "float32",
        "divergence.factor": 3.0,
        "divergence.patience": 20,
        **leaves,
        "status": status,
        "diverged_at": steps // 2 + seed if status == "diverged" else None,
        "error": "RuntimeError: out of memory" if status == "failed" else None,
        spec["metric"]: value if status == "completed" else None,
        "train/loss": 0.1 if status == "completed" else None,
        "step_seconds": seconds,
        "seconds": seconds * steps,
        "width": 12,
        "step_program": hashlib.sha256(f"{model}{regularizer}{sorted(leaves.items())}".encode()).hexdigest()[
            :16
        ],
        "gradbench": "0.1.0",
        "torch": "2.6.0",
        "python": "3.12.1",
        "device": "cpu",
        "git_commit": "0123abc",
        "git_dirty": False,
        "data_sha256": hashlib.sha256(spec["data"].encode()).hexdigest(),
        "started": "2026-11-22T08:00:00+00:00",
        "finished": "2026-11-22T08:02:41+00:00",
        "command": f"gradbench run model={model} regularizer={text} seed={seed}",
    }


def _curve(row: Mapping[str, Any], model: str, rng: np.random.Generator) -> pd.DataFrame:
    spec = MODELS[model]
    diverged = row["status"] == "diverged"
    n = int(row["diverged_at"]) if diverged else int(row["steps"])
    step = np.arange(1, n + 1)
    grown = np.exp(6.0 * step / n) if diverged else 1.0 + 3.0 * np.exp(-4 * step / row["steps"])
    norm = grown * np.exp(0.4 * rng.normal(size=n))
    threshold = row["regularizer.threshold"]
    if threshold is not None and row["regularizer"] == "clip_norm":
        used = np.minimum(norm, threshold)
        clipped = (norm > threshold).astype(float)
        cosine = np.ones(n)
    elif threshold is not None:
        clipped = np.clip(norm / threshold / 100, 0, 1)
        used, cosine = norm * (1 - 0.5 * clipped), 1 - 0.3 * clipped
    else:
        used, clipped, cosine = norm, np.zeros(n), np.ones(n)
    strength = row.get("regularizer.gp.lambda", row["regularizer.lambda"])
    curve = pd.DataFrame(
        {
            "cell": row["cell"],
            "step": step,
            "loss": grown * (1 + 0.1 * rng.normal(size=n)),
            "grad_norm": norm,
            "grad_norm_used": used,
            "clipped": clipped,
            "cosine": cosine,
            "penalty": 0.0 if strength is None else 0.1 * np.log1p(strength) * rng.random(n),
            "update_norm": 0.1 * used,
        }
    )
    final = row.get(spec["metric"])
    end = spec["none"] * 2 if final is None else final
    evaluated = np.where(
        step % max(row["steps"] // 10, 1) == 0, end + (spec["none"] - end) * np.exp(-5 * step / n), np.nan
    )
    curve[spec["metric"]] = evaluated
    if model == "wgan":
        curve["generator/loss"] = rng.normal(size=n)
        curve["generator/grad_norm"] = norm / 3
    return curve


def _arrays(folder: Path, row: Mapping[str, Any], rng: np.random.Generator) -> None:
    (folder / "arrays").mkdir(parents=True, exist_ok=True)
    spread = 0.05 if row["regularizer"] == "gp" else 0.3
    y, x = np.mgrid[-2:2:48j, -2:2:48j]
    edges = np.linspace(-6, 1, 41)
    raw = rng.normal(-2, 0.8, 4000)
    np.savez(
        folder / "arrays" / f"{row['cell']}.npz",
        samples=_ring(rng, spread),
        data=_ring(rng, 0.02),
        surface=np.sin(2 * x) * np.cos(2 * y) + x,
        extent=np.array([-2.0, 2.0, -2.0, 2.0]),
        gradient_norms=np.abs(rng.normal(1.0, spread, 1000)),
        **{
            "gradients/edges": edges,
            "gradients/raw": np.histogram(raw, edges)[0],
            "gradients/used": np.histogram(np.minimum(raw, -1.5), edges)[0],
        },
    )


def _ring(rng: np.random.Generator, spread: float) -> npt.NDArray[np.float64]:
    angle = rng.integers(0, 8, 1000) * np.pi / 4
    return np.stack([np.cos(angle), np.sin(angle)], axis=1) * 1.4 + spread * rng.normal(size=(1000, 2))


def write_pairs(
    folder: Path,
    name: str,
    first: tuple[str, Sequence[float]],
    second: tuple[str, Sequence[float]],
    best: tuple[float, float],
    **given: Any,
) -> None:
    """Write the cells of a composition for each pair of strengths of its parts; at one of them the metric is a tenth.

    A part is a key such as ``gp.lambda`` with its strengths.
    """
    for a in first[1]:
        for b in second[1]:
            leaves = {
                "regularizer.strength": f"{first[0]}+{second[0]}",
                "regularizer.family": "penalty",
                f"regularizer.{first[0]}": a,
                f"regularizer.{second[0]}": b,
            }
            leaves |= {
                f"regularizer.{part}.family": "penalty" if part.startswith("gp") else "clipping"
                for part in name.split("+")
            }
            part = f"{name}-{a}-{b}"
            cells = write(folder, strengths={name: ()}, leaves=leaves, part=part, **given)
            if (a, b) == best:
                metric = cells["model.metric"].iloc[0]
                better = cells.assign(**{metric: 0.1 * cells[metric]})
                better.to_parquet(folder / "cells" / f"{part}.parquet", index=False)
