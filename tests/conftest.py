import gc
import io
import signal
from copy import deepcopy

import hypothesis
import pytest
import torch
from omegaconf import OmegaConf

from gradbench.config import compose
from gradbench.launchers import forkserver
from gradbench.report import figures
from gradbench.report.figures.style import RC

# no test times anything: a busy machine is no failure
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
torch.set_num_threads(1)
# a shell that runs the tests in the background has them, and whatever they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
# what each process that tries a network of one's own would import for a second
forkserver.PRELOADED.append("torch._dynamo")
# the objects of all imports and tests live as long as the process: to look through them often takes a tenth of its time
gc.set_threshold(50_000, 20, 50)
# no test looks at pixels
RC["savefig.dpi"] = 20

COMPOSED: dict[tuple[object, ...], compose.Composed] = {}
"""What Hydra composed of the shipped files: a tenth of a second each, and the same in every test."""


def compose_once(configs, words, real=compose.Configs._compose):
    """Compose shipped files once per process, and files of a folder of one's own every time."""
    key = (compose.shipped_folder("conf"), *words)
    if configs.folder is not None:
        return real(configs, words)
    if key not in COMPOSED:
        COMPOSED[key] = real(configs, words)
    return deepcopy(COMPOSED[key])


compose.Configs._compose = compose_once

PARSED: dict[str, object] = {}
"""What OmegaConf made of the text of a file: Hydra reads a dozen for each composition, mostly the same."""


def parse_once(file, real=OmegaConf.load):
    """Parse each text once per process."""
    if not isinstance(file, io.TextIOBase):
        return real(file)
    text = file.read()
    if text not in PARSED:
        file.seek(0)
        PARSED[text] = real(file)
    return deepcopy(PARSED[text])


OmegaConf.load = parse_once


@pytest.fixture(autouse=True)
def _own_random_state():
    """No test may depend on what another drew from the global generators."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_arithmetic():
    """A worker flushes denormal numbers; one that a test settles in this process must not do so for the next."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def drawn(monkeypatch):
    """A test that asks for this gets reports with figures, which take most of a report's time; called with names of
    sections, with the figures of these alone.
    """

    def limit(*sections):
        monkeypatch.setattr(figures, "SECTIONS", {name: figures.SECTIONS[name] for name in sections})

    return limit


@pytest.fixture(autouse=True)
def _figures_for_tests_that_look_at_them(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("gradbench.report.figures.start_drawing", lambda _context: dict)


LONG = ("test_kill.py", "test_signals.py")
"""Files with tests that take a minute: first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items):
    """Begin with the longest tests; the others keep their order."""
    items.sort(key=lambda item: item.path.name not in LONG)
