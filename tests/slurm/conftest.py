"""A SLURM for the tests of this folder; they are marked ``slurm``."""

from collections.abc import Iterator

import pytest
from slurm.cluster import MISSING, Cluster, is_installed


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if not is_installed():
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose nodes are idle and whose queue is empty; whatever a test does to it is undone."""
    yield _cluster
    _cluster.reset()
