"""What tests of tars share."""

import pytest

from jaxrep.data.sources.tar.shards import TarShards
from tests.helpers.tars import pairs, write


@pytest.fixture
def shards(tmp_path):
    """Three tars of five, seven and one pairs."""
    for shard, numbers in enumerate((range(5), range(5, 12), range(12, 13))):
        write(tmp_path / f"{shard}.tar", pairs(numbers))
    return TarShards(shards=f"{tmp_path}/{{0..2}}.tar", image_size=4)
