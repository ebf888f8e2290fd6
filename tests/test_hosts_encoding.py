"""Values that hosts exchange arrive as they were sent, as JSON."""

import json

import numpy as np

from jaxrep import hosts
from jaxrep.errors import BadSample


def test_gathered_values_survive_json():
    value = {
        3: {
            "text": "ä",
            "texts": ("a", "b"),
            "label": np.int32(4),
            "image": np.arange(6, dtype=np.uint8).reshape(2, 3),
        },
        5: BadSample("a.tar, member 1.png", "it is empty"),
        "list": [1, 2.5, None, True, []],
    }
    back = hosts._decode(json.loads(json.dumps(hosts._encode(value))))
    assert [*back] == [3, 5, "list"] and back["list"] == value["list"]
    assert back[3]["texts"] == ("a", "b") and back[3]["text"] == "ä"
    assert type(back[3]["label"]) is np.int32 and back[3]["label"] == 4
    np.testing.assert_array_equal(back[3]["image"], value[3]["image"])
    assert isinstance(back[5], BadSample) and str(back[5]) == str(value[5])
