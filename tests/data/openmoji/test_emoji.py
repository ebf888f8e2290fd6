"""OpenMoji's splits, ids, names and images are as documented."""

import re
import typing
from collections import defaultdict
from importlib import resources

import emoji
import numpy as np
import pytest

from jaxrep.data.openmoji import emoji as openmoji
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.spec import problems
from tests.helpers import openmoji_split


@pytest.fixture(scope="module")
def everything():
    return OpenMoji(part="all").open()


@pytest.fixture(scope="module")
def train():
    return OpenMoji().open()


@pytest.fixture(scope="module")
def test():
    return OpenMoji(part="test").open()


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower()))


def test_split_rule_gives_the_published_lists():
    for split, text in openmoji_split.lists().items():
        assert text == resources.files("jaxrep.data.openmoji").joinpath(f"{split}.txt").read_text(encoding="utf-8")


def test_train_and_test_parts_are_all_pairs(everything, train, test):
    assert (len(train), len(test), len(everything)) == (3555, 398, 3953)
    assert sorted(train.column("code") + test.column("code")) == sorted(everything.column("code"))


def test_test_names_are_new_combinations_of_training_words(train, test):
    seen = set().union(*map(_words, train.column("text")))
    assert all(_words(name) <= seen for name in test.column("text"))
    assert not set(train.column("text")) & set(test.column("text"))


def test_test_names_are_skin_tones_of_concepts_with_six_forms(everything, test):
    forms = np.bincount(everything.column("concept"))
    assert all("skin tone" in name for name in test.column("text"))
    assert forms[test.column("concept")].min() >= 6


@pytest.mark.parametrize("split", ["compositional", "random"])
def test_equal_images_are_in_the_same_part(split):
    train, test = (OpenMoji(split=split, part=part).open() for part in ("train", "test"))
    assert not set(train.column("image_id").tolist()) & set(test.column("image_id").tolist())
    assert len(test) == {"compositional": 398, "random": 395}[split]


def test_equal_ids_mean_equal_images_or_names(everything):
    for ids, values in (
        (everything.column("image_id"), [image.tobytes() for image in everything.column("image")]),
        (everything.column("text_id"), everything.column("text")),
    ):
        meanings = defaultdict(set)
        for identity, value in zip(ids.tolist(), values, strict=True):
            meanings[identity].add(value)
        assert all(len(meaning) == 1 for meaning in meanings.values())
        assert len(meanings) == len(set(values))
    assert len(set(everything.column("image_id").tolist())) < len(everything)


@pytest.mark.parametrize("languages", [("en",), ("de", "en", "ja")])
def test_fields_match_examples(languages):
    source = OpenMoji(part="all", languages=languages)
    examples, fields = source.open(), source.fields()
    assert examples[0].keys() == fields.keys()
    for name, field in fields.items():
        values = np.asarray(examples.column(name))
        assert values.shape[1:] == field.shape
        assert field.dtype == ("str" if values.dtype.kind == "U" else values.dtype)
        if field.classes is not None:
            assert set(values.tolist()) == set(range(field.classes))
            assert len(examples.classes[name]) == field.classes


def test_labels_name_emojis(everything):
    at = everything.column("text").index("woman firefighter: medium skin tone")
    example = everything[at]
    meaning = {name: classes[example[name]] for name, classes in everything.classes.items()}
    assert example["code"] == "1F469-1F3FD-200D-1F692"
    assert meaning == {
        "group": "People & Body",
        "subgroup": "person-role",
        "tone": "medium",
        "concept": "1F9D1-200D-1F692",
    }
    forms = np.flatnonzero(everything.column("concept") == example["concept"])
    assert len(forms) == 18  # man, woman, person, each without tone and in five
    pair = everything[everything.column("text").index("women wrestling: light skin tone, dark skin tone")]
    assert everything.classes["tone"][pair["tone"]] == "light, dark"


def test_names_in_other_languages(everything):
    assert set(typing.get_args(openmoji.Language)) == set(emoji.LANGUAGES)
    german = openmoji.emoji_names(openmoji.load_emojis(), "de")
    assert german[everything.column("text").index("grinning face")] == "grinsendes gesicht"
    assert all(german)


def test_color_style(everything):
    apple = everything[everything.column("text").index("red apple")]["image"]
    assert (apple[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    np.testing.assert_array_equal(apple[40, 24], [0xEA, 0x5A, 0x47])  # OpenMoji's red


def test_black_style():
    files = openmoji.svg_files()
    for code in ("1F34E", "1F469-1F3FD-200D-1F692", "1F1E9-1F1EA"):
        picture = openmoji.draw_svg(files[code], 48, "black")
        assert np.ptp(picture.astype(int), axis=-1).max() == 0
        assert picture.min() < 64 < 255 == picture.max()


def test_invalid_values():
    assert not problems(OpenMoji())
    assert problems(OpenMoji(image_size=0)) == ["image_size: expected a number of at least 1, got 0"]
    assert "'xx'" in " ".join(problems(OpenMoji(languages=("en", "xx"))))
    assert "each once" in " ".join(problems(OpenMoji(languages=("en", "en"))))


def test_attribution():
    assert "OpenMoji" in OpenMoji.attribution and "CC BY-SA 4.0" in OpenMoji.attribution
