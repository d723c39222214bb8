import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_random_state():
    """No test may depend on what another drew from the global generators."""
    torch.manual_seed(0)
