"""How much work fills a GPU: beyond it a wider stack takes longer in proportion, and nothing is gained.

Measured once per device by ``experiments/throughput/saturation.py``, so that stacks never depend on a stopwatch.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

TABLE = Path(__file__).with_name("saturation.csv")
"""A row per device and model: bytes of one player's parameters in the narrowest stack that fills the device."""

TOLERANCE = 1.05
"""A stack fills a device where its step takes, per cell, at most this many times that of the best width."""


def saturating_bytes(device_name: str, model: str, table: Path = TABLE) -> int | None:
    """Return the bytes of parameters that fill a device, ``None`` where nobody has measured it."""
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if (row["device_name"], row["model"]) == (device_name, model):
                return int(row["parameter_bytes"])
    return None


def narrowest_full(seconds: Mapping[int, float]) -> int:
    """Return the narrowest width that fills a device.

    Args:
        seconds: width -> of a step of the whole stack.
    """
    per_cell = {width: whole / width for width, whole in seconds.items()}
    best = min(per_cell.values())
    return min(width for width, each in per_cell.items() if each <= TOLERANCE * best)


def with_rows(rows: Mapping[tuple[str, str], int], table: Path = TABLE) -> str:
    """Return the table's text with rows, (device, model) -> bytes, added or replaced; sorted."""
    with table.open(encoding="utf-8", newline="") as lines:
        kept = {
            (row["device_name"], row["model"]): int(row["parameter_bytes"]) for row in csv.DictReader(lines)
        }
    merged = sorted((kept | dict(rows)).items())
    header = "device_name,model,parameter_bytes"
    return "\n".join([header, *(f'"{device}",{model},{size}' for (device, model), size in merged), ""])
