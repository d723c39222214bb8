import signal

import hypothesis
import pytest
import torch

# no test times anything: a busy machine is no failure
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
torch.set_num_threads(1)
# a shell that runs the tests in the background has them, and whatever they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_random_state():
    """No test may depend on what another drew from the global generators."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_arithmetic():
    """A worker flushes denormal numbers; one that a test settles in this process must not do so for the next."""
    yield
    torch.set_flush_denormal(False)
