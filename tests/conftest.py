import signal

import pytest
import torch

torch.set_num_threads(1)
# a shell that runs the tests in the background has them, and whatever they start, ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_random_state():
    """No test may depend on what another drew from the global generators."""
    torch.manual_seed(0)
