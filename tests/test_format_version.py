"""Files of earlier format versions are upgraded; newer or unknown ones are refused in one sentence."""

import json

import pytest

from jaxrep import Data, Recipe, data, encoders, experiment, format_version, methods, objectives, optim, schedules
from jaxrep.errors import UsageError
from jaxrep.experiment import from_run, recipe_json
from jaxrep.format_version import Renames, upgrade, version_of

PLAIN = Recipe(
    data=Data(train=data.OpenMoji(image_size=8), batch_size=8),
    method=methods.SingleEncoder(name="image", encoder=encoders.ViT(width=8, depth=1, heads=1)),
    objective={"spread": objectives.KoLeo("image")},
    optimizer=optim.AdamW(),
    schedule=schedules.Constant(value=0.1),
    epochs=1,
)
LATER = {
    2: Renames(types={"jaxrep.schedules:Old": "jaxrep.schedules:Constant"}),
    3: Renames(fields={("jaxrep.schedules:Constant", "amount"): "value", ("jaxrep.schedules:Constant", "unit"): ""}),
}


def test_upgrade_renames_types_and_fields_in_order_and_drops_fields():
    old = {"a": [{"$type": "jaxrep.schedules:Old", "amount": 2.0, "unit": "s"}], "amount": 3}
    new = {"a": [{"$type": "jaxrep.schedules:Constant", "value": 2.0}], "amount": 3}
    assert upgrade(old, 1, LATER) == new
    assert upgrade(new, 3, LATER) == new


def test_upgrade_starts_after_the_version_of_the_file():
    data = {"$type": "jaxrep.schedules:Constant", "amount": 2.0}
    assert upgrade(data, 2, LATER) == {"$type": "jaxrep.schedules:Constant", "value": 2.0}
    assert upgrade(data, 3, LATER) == data


@pytest.mark.parametrize("stated", [None, 0, "1", True, 1.5])
def test_missing_or_invalid_version_is_refused(stated):
    with pytest.raises(UsageError, match=r"recipe\.json states no format version"):
        version_of({} if stated is None else {"$format": stated}, "recipe.json")


def test_newer_version_is_refused():
    with pytest.raises(UsageError, match=r"has format version 9, and this jaxrep reads formats 1 to \d"):
        version_of({"$format": 9}, "recipe.json")


def test_removed_field_without_an_entry_names_both_versions(tmp_path, monkeypatch):
    data = recipe_json(PLAIN)
    (tmp_path / "recipe.json").write_text(json.dumps({**data, "gone": 1}))
    for module in (experiment, format_version):
        monkeypatch.setattr(module, "FORMAT", 2)
    monkeypatch.setattr(version_of, "__defaults__", (2,))
    with pytest.raises(UsageError, match=r"gone.*it has format version 1, and this jaxrep 2"):
        from_run(tmp_path)
