"""Recipes of remote shards read them in lanes, so that the hosts of a pod share none."""

from pathlib import Path

import numpy as np

from jaxrep.data import Windowed
from jaxrep.data.orders.lanes import deal
from jaxrep.data.sources.patterns import braces
from jaxrep.experiment import load
from jaxrep.experiment_files import list_experiments
from jaxrep.spec import walk

FILES = list_experiments(Path(__file__).parents[2] / "experiments")
# Their order belongs to the method: pictures that look alike are in one batch.
OWN_ORDERS = ("negclip:recipe",)


def test_recipes_of_remote_shards_read_them_in_lanes():
    found = {}
    for target in [f"{file.name}:{preset}" for file in FILES if file.folder != "evaluation" for preset in file.presets]:
        data = load(target).recipe.data
        texts = [value for _, value in walk(data.train) if isinstance(value, str) and "://" in value]
        if shards := [path for text in texts for path in braces(text) if "{" in text]:
            found[target] = data.order, len(shards)
    assert len(found) > 15 and {*OWN_ORDERS} <= {*found}
    for target, (order, shards) in found.items():
        if target in OWN_ORDERS:
            continue
        assert isinstance(order, Windowed), f"{target} reads {shards} remote shards: give it experiments.common.lanes"
        held = [len(lane) for lane in deal(np.ones(shards, int), order.lanes)]
        assert min(held) >= 25 and max(held) - min(held) <= 0.02 * min(held), f"{target}: its lanes would drift apart"
        # Two lanes of 29 shards would; a set of that size is read whole by every host.
        assert order.lanes > 1 or shards < 30, f"{target} has too few lanes"
