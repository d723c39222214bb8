"""Read the stack width that saturates a GPU: a wider stack takes proportionally longer per step, and gains nothing.

``experiments/throughput/saturation.py`` measures it once per device and writes the table, so that stacks never depend
on timings.
"""

import csv
from pathlib import Path

TABLE = Path(__file__).with_name("saturation.csv")
"""A row per device and model: bytes of one player's parameters in the narrowest stack that saturates the device."""


def saturating_bytes(device_name: str, model: str, table: Path = TABLE) -> int | None:
    """Return the bytes of parameters that saturate a device, ``None`` if they were not measured."""
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if (row["device_name"], row["model"]) == (device_name, model):
                return int(row["parameter_bytes"])
    return None
