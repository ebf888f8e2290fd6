"""Composition counts captions that win against all their wrong ones, and ties are lost."""

import numpy as np
import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.transforms import word_swaps
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.retrieval.composition import Composition, wrong_captions
from tests.helpers.fake_model import FakeModel, given, pictures, unit


class Words(FakeModel):
    """Each text is the sum of its words' vectors, with their order or without."""

    def __init__(self, captions, ordered, noise=0.0):
        self.ordered, self.vectors = ordered, np.random.default_rng(0).normal(size=(500, 24))
        self.known = {}
        super().__init__(None, None)
        self.images = unit(np.stack([self.vector(text) for text in captions]))

    def vector(self, text):
        words = text.lower().replace(":", "").replace(",", "").split()
        at = [self.known.setdefault(word, len(self.known)) for word in words]
        return sum(
            self.vectors[i] * (1 + 0.3 * place * self.ordered)
            for place, i in enumerate(sorted(at) if not self.ordered else at)
        )

    def encode_text(self, texts, name="text"):
        return unit(np.stack([self.vector(text) for text in texts]))


CAPTIONS = ["red apple", "blue book", "left arrow curving right", "woman: dark skin tone", "a dog by the big house"]


def test_bag_of_words_model_ties_if_words_only_move():
    data = given(image=pictures(range(5)), text=CAPTIONS)
    evaluation = Composition(data=data)
    assert not [*evaluation.problems()]
    reader, bag = evaluation.run(Words(CAPTIONS, True)), evaluation.run(Words(CAPTIONS, False))
    assert set(reader) == set(bag)
    for kind in ("color", "direction", "gender", "skin_tone"):
        assert reader[f"composition/replace/{kind}"] == bag[f"composition/replace/{kind}"] == 1
    assert len(bag["composition/replace/color"].values) == 2
    moved = [name for name in bag if "/replace/" not in name]
    assert {"composition/exchange/direction", "composition/order/trigrams", "composition/order/within_trigrams"} <= {
        *moved
    }
    for name in moved:
        assert bag[name] == 0  # ties
        assert reader[name] == 1


def test_one_wrong_caption_with_equal_score_loses():
    texts = {f"{color} heart": unit([1, i]) for i, color in enumerate(["red", "orange", "yellow", "green", "blue"])}
    texts |= {f"{color} heart": unit([0, 1]) for color in ["purple", "brown", "black", "white"]}
    texts |= {f"heart {text.split()[0]}": unit([0, 1]) for text in [*texts]}
    data = given(image=pictures([0, 1]), text=["red heart", "blue heart"])
    images = np.stack([texts["red heart"], texts["blue heart"]])
    assert Composition(data=data).run(FakeModel(images, texts))["composition/replace/color"] == 1
    texts["green heart"] = texts["blue heart"]
    found = Composition(data=data).run(FakeModel(images, texts))["composition/replace/color"]
    assert found.values.tolist() == [1, 0]


def test_other_caption_of_the_same_image_is_not_wrong():
    captions = ["man with cane", "Woman with  cane", "woman with hat"]
    model = Words([captions[0], captions[0], captions[2]], True)
    alone = Composition(data=given(image=pictures(range(3)), text=captions)).run(model)
    assert len(alone["composition/replace/gender"].values) == 3
    ids = np.int32([0, 0, 1])
    same = Composition(data=given(image=pictures(range(3)), text=captions, image_id=ids)).run(model)
    assert len(same["composition/replace/gender"].values) == 1


def test_custom_lexicon(tmp_path):
    (tmp_path / "own.txt").write_text("size: big | small\n")
    data = given(image=pictures(range(5)), text=CAPTIONS)
    found = Composition(data=data, lexicon=str(tmp_path / "own.txt")).run(Words(CAPTIONS, True))
    assert [name for name in found if "/replace/" in name] == ["composition/replace/size"]
    with pytest.raises(UsageError, match=r"the lexicon nowhere\.txt cannot be read"):
        Composition(data=data, lexicon="nowhere.txt").run(Words(CAPTIONS, True))


def test_captions_without_swaps_are_an_error():
    with pytest.raises(JaxrepError, match="no caption holds a phrase of the lexicon"):
        Composition(data=given(image=pictures([0]), text=["word"])).run(Words(["word"], True))


def test_emoji_names_have_all_kinds_of_swaps():
    from jaxrep.data.openmoji.emoji import load_emojis

    groups, tag = word_swaps.read(), word_swaps.tagger()
    names = [emoji.name for emoji in load_emojis()[::7]]
    kinds = {metric for name in names for metric, _ in wrong_captions(name, groups, tag(name), 0)}
    assert {f"replace/{kind}" for kind in ("skin_tone", "gender", "direction", "color")} <= kinds
    assert {"exchange/skin_tone", "order/trigrams", "order/nouns_and_adjectives"} <= kinds
    assert not [*Composition(data=OpenMoji()).problems()]
