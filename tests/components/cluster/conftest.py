from collections.abc import Iterator
from typing import Any

import pytest

from tests.fake_cluster import Cluster, serving


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Any]:
    pytest.importorskip("kubernetes.client", reason="the extra 'pipeline' is not installed")
    with serving(cluster) as connected:
        yield connected
