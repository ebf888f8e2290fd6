"""Recipes are data: paths, differences, JSON, identity and static validation of spec trees."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrep.errors import UsageError
from jaxrep.schedules import Constant, Schedule, WarmupCosine
from jaxrep.spec import (
    ABSENT,
    Change,
    difference,
    execution,
    problems,
    render_difference,
    replace,
    spec,
    walk,
)
from jaxrep.spec_json import fingerprint, from_json, identity, to_json

HERE = sys.modules[__name__]


@spec
class Tower:
    width: int = 768
    heads: int = 12
    pool: Literal["cls", "mean"] = "cls"
    remat: bool = execution(False)

    def problems(self):
        if self.width % self.heads:
            yield f"heads ({self.heads}) must divide width ({self.width})"


@spec
class View:
    ratio: float = 0.5


@spec
class Adam:
    b1: float = 0.9
    b2: float = 0.999


@spec
class Lamb:
    b1: float = 0.9
    decay: float = 0.01


@spec
class Toy:
    towers: Mapping[str, Tower]
    views: tuple[View, ...] = ()
    optimizer: Any = Adam()
    schedule: Schedule = Constant()
    limit: float | None = None
    seed: int = 0
    size: tuple[int, int] = (2, 3)
    workers: int = execution(4)


@dataclasses.dataclass
class Loose:
    pass


def toy(**fields):
    return Toy(**{"towers": {"image": Tower(), "text": Tower(width=384)}, "views": (View(), View(ratio=0.1)), **fields})


# Walk and replace


def test_walk_gives_every_part_and_value_with_its_path():
    seen = dict(walk(toy()))
    assert seen[""] == toy()
    assert seen["towers.text"] == Tower(width=384)
    assert seen["towers.text.width"] == 384
    assert seen["views.1.ratio"] == 0.1
    assert list(seen)[:3] == ["", "towers", "towers.image"]


def test_replace_reaches_fields_mappings_and_tuples_and_leaves_the_original():
    before = toy()
    after = replace(before, {"towers.image.width": 384, "views.0.ratio": 0.25}, seed=7)
    assert after == toy(
        towers={"image": Tower(width=384), "text": Tower(width=384)}, views=(View(ratio=0.25), View(ratio=0.1)), seed=7
    )
    assert before == toy()


def test_replace_applies_changes_in_their_order():
    after = replace(toy(), {"optimizer": Lamb(), "optimizer.decay": 0.1})
    assert after.optimizer == Lamb(decay=0.1)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (
            "towers.image.widht",
            "Tower has nothing named 'widht'; did you mean width? there are: width, heads, pool, remat",
        ),
        ("towers.imgae", "dict has nothing named 'imgae'; did you mean image? there are: image, text"),
        ("views.2", "tuple has nothing named '2'; there are: 0, 1"),
        ("seed.x", "int has nothing named 'x'; there are none"),
    ],
)
def test_a_wrong_path_names_what_exists(path, sentence):
    with pytest.raises(UsageError) as error:
        replace(toy(), {path: 1})
    assert str(error.value) == f"{path}: {sentence}"


# Difference


def test_equal_trees_have_no_difference_whatever_the_kind_of_number():
    assert difference(toy(), toy()) == []
    assert difference(toy(limit=1), toy(limit=1.0)) == []
    assert difference(toy(towers={"a": Tower(), "b": Tower()}), toy(towers={"b": Tower(), "a": Tower()})) == []


def test_a_difference_reads_as_one_line_a_change():
    other = toy(
        towers={"image": Tower(width=384), "audio": Tower()}, views=(View(),), optimizer=Lamb(decay=0.1), limit=2.0
    )
    assert render_difference(difference(toy(), other)).splitlines() == [
        "towers.image.width: 768 -> 384",
        "towers.text: Tower(width=384) -> (absent)",
        "towers.audio: (absent) -> Tower()",
        "views.1: View(ratio=0.1) -> (absent)",
        "optimizer: Adam() -> Lamb(decay=0.1)",
        "limit: None -> 2.0",
    ]


def test_true_is_not_one():
    assert difference((True,), (1,)) == [Change("0", True, 1)]


def test_a_change_knows_whether_it_is_only_of_execution():
    changes = difference(toy(), replace(toy(), {"workers": 8, "towers.image.remat": True, "seed": 1}))
    assert {c.path: c.execution for c in changes} == {"towers.image.remat": True, "seed": False, "workers": True}


def test_a_long_part_is_cut():
    (change,) = difference((), ({f"key{i}": i for i in range(100)},))
    assert change.a is ABSENT
    line = render_difference([change])
    assert line.endswith("…}") and len(line) < 130


# Identity


def test_identity_leaves_execution_out_at_any_depth():
    same = replace(toy(), {"workers": 8, "towers.image.remat": True})
    assert identity(same) == identity(toy())
    assert fingerprint(same) == fingerprint(toy())
    assert "workers" not in identity(toy()) and "remat" not in identity(toy())["towers"]["image"]


def test_fingerprint_leaves_defaults_out_at_any_depth():
    explicit = toy(limit=Toy.__dataclass_fields__["limit"].default)
    assert fingerprint(explicit) == fingerprint(toy())
    assert fingerprint(toy(optimizer=Adam(b2=0.9))) != fingerprint(toy(optimizer=Adam()))


def test_identity_differs_exactly_where_the_difference_is_of_identity():
    assert fingerprint(toy(limit=1)) == fingerprint(toy(limit=1.0))
    assert fingerprint(toy(limit=1)) != fingerprint(toy(limit=True))
    assert fingerprint(toy(optimizer=Adam())) != fingerprint(toy(optimizer=Lamb()))
    assert fingerprint(toy(towers={"a": Tower(), "b": Tower()})) == fingerprint(
        toy(towers={"b": Tower(), "a": Tower()})
    )


# JSON


def round_trip(value):
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)), HERE)


def test_json_names_types_and_comes_back_equal():
    recipe = toy(schedule=WarmupCosine(peak=5e-4, warmup_steps=2_000), limit=math.inf)
    data = to_json(recipe)
    assert data["$type"] == "experiment:Toy"
    assert data["schedule"]["$type"] == "jaxrep.schedules:WarmupCosine"
    assert data["limit"] == {"$float": "inf"}
    again = round_trip(recipe)
    assert again == recipe
    assert type(again.views) is tuple and type(again.views[0]) is View


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain | st.builds(View, ratio=st.floats(allow_nan=False)),
    lambda inner: (
        st.lists(inner).map(tuple)
        | st.dictionaries(st.text().filter(lambda k: not k.startswith("$")), inner)
        | st.builds(Adam, b1=inner)
    ),
    max_leaves=10,
)


@given(values)
def test_any_tree_of_values_survives_json(value):
    again = round_trip(value)
    assert again == value and difference(again, value) == []
    assert fingerprint(again) == fingerprint(value)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (math.nan, "NaN"),
        ([1], "list"),
        ({1: 2}, "the key 1"),
        ({"$type": 2}, "the key '\\$type'"),
        (print, "builtin_function_or_method"),
        (Loose(), "Loose"),
    ],
)
def test_what_is_not_data_cannot_be_written(value, word):
    with pytest.raises(UsageError, match=word):
        to_json(toy(optimizer=value))


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "jaxrep.spec:spec",
        "jaxrep.spec:dataclasses",
        "jaxrep.spec_json:__builtins__",
        "jaxrep.__main__:Toy",
        "jaxrep.schedules:Schedule.__init__",
        "jaxrep.schedules:spec",
        "jaxrep.nowhere:Part",
        "jaxrep..spec:Change",
        "jaxreputation:Part",
        "experiment:Schedule",
        "experiment:Loose",
        "experiment:__builtins__",
        "experiment:pytest",
        "jaxrep.schedules",
        "",
        3,
        None,
        ["os", "system"],
    ],
)
def test_types_come_from_jaxrep_and_the_experiment_only(name):
    with pytest.raises(UsageError) as error:
        from_json({"$type": name}, HERE)
    assert "\n" not in str(error.value)


def test_types_of_an_experiment_need_the_experiment():
    with pytest.raises(UsageError, match="no experiment file is at hand"):
        from_json(to_json(View()))


def test_unknown_and_missing_fields_are_named():
    data = to_json(toy())
    data["towers"]["image"]["widht"] = data["towers"]["image"]["width"]
    with pytest.raises(
        UsageError, match=r"towers\.image\.widht: experiment:Tower has no such field; did you mean width"
    ):
        from_json(data, HERE)
    del data["towers"]["image"]["widht"], data["towers"]
    with pytest.raises(UsageError, match=r"recipe: fields of experiment:Toy are missing: towers"):
        from_json(data, HERE)


def test_a_field_that_is_younger_than_the_file_has_its_default():
    data = to_json(toy())
    del data["towers"]["image"]["remat"]
    assert from_json(data, HERE) == toy()


@pytest.mark.parametrize("value", ["nan", "1", 1, None, "infinity"])
def test_a_special_float_is_an_infinity(value):
    with pytest.raises(UsageError, match="not a number"):
        from_json({"$float": value})


# Problems


def test_a_sound_recipe_has_no_problems_and_an_int_is_a_float():
    assert problems(toy(limit=1, views=(View(ratio=1),))) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("towers.image.width", "a", "towers.image.width: expected int, got str 'a'"),
        ("seed", True, "seed: expected int, got bool True"),
        ("limit", True, "limit: expected float | None, got bool True"),
        ("views.1.ratio", None, "views.1.ratio: expected float, got NoneType None"),
        ("views.1", Adam(), "views.1: expected View, got Adam"),
        ("towers.text", "vit", "towers.text: expected Tower, got str 'vit'"),
        ("schedule", 0.1, "schedule: expected Schedule, got float 0.1"),
        ("towers.image.pool", "max", "towers.image.pool: expected Literal['cls', 'mean'], got str 'max'"),
        ("size", (1, 2, 3), "size: expected tuple[int, int], got tuple (1, 2, 3)"),
        ("size.0", 1.5, "size.0: expected int, got float 1.5"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_path(path, value, sentence):
    assert problems(replace(toy(), {path: value})) == [sentence]


def test_a_list_is_not_a_tuple_and_a_key_is_a_name():
    assert problems(toy(views=[View()]))[0].startswith("views: expected tuple")
    assert problems(toy(views=[View()]))[0].endswith("got list [View(ratio=0.5)]; write a tuple: (View(),)")
    assert problems(toy(views=[]))[0].endswith("; write a tuple: ()") and ";" not in problems(toy(views=[3]))[0]
    assert problems(toy(views=View()))[0].endswith("got View; add a comma: (View(),)")
    assert problems(toy(size=[1, 2]))[0].endswith("; write a tuple: (1, 2)")
    with pytest.raises(UsageError, match=r"views: a list cannot be part of a recipe: write \(View\(\),\)$"):
        to_json(toy(views=[View()]))
    assert problems(toy(towers={1: Tower()})) == ["towers (the key 1): expected str, got int 1"]


def test_a_parts_own_problems_come_with_its_path():
    wrong = replace(toy(optimizer=(Tower(heads=7),)), {"towers.image.heads": 5})
    assert problems(wrong) == [
        "towers.image: heads (5) must divide width (768)",
        "optimizer.0: heads (7) must divide width (768)",
    ]


def test_a_part_with_a_wrong_type_is_not_asked_for_more():
    assert problems(replace(toy(), {"towers.image.heads": "12"})) == ["towers.image.heads: expected int, got str '12'"]
