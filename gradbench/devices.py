"""Which device trains: names to ``torch.device``, refused by name where there is none."""

import torch

from gradbench.errors import UsageError


def available() -> list[str]:
    """Return the devices of this machine by name, the best first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve(name: str) -> list[torch.device]:
    """Return the devices that ``device=name`` means: every GPU for ``auto`` and ``cuda``, else just one.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UsageError: for a name that is not one, or a device that is not there.
    """
    here = available()
    kinds = {"auto": here[0].split(":")[0], "cuda": "cuda"}
    chosen = [device for device in here if device == name or device.split(":")[0] == kinds.get(name)]
    if not chosen:
        raise UsageError(f"device={name} is not on this machine; here: auto, {', '.join(here)}")
    return [torch.device(device) for device in chosen]
