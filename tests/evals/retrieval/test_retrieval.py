"""Retrieval counts what is right, strictly, both ways."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.retrieval.captioned_eval import positive_pairs
from jaxrep.evals.retrieval.retrieval import Retrieval
from tests.helpers.fake_model import FakeModel, given, pictures, unit

NAMES = ("r1", "r5", "r10", "map5", "map10", "median_rank")


def plain(images, texts, owner, image_ids, text_ids, ks=(1, 5, 10)):
    """The definition, pair by pair: a text is right for an image if any copies of the two are paired."""
    paired = {(image_ids[i], t) for i, t in zip(owner, text_ids, strict=True)}
    similarity = images.astype(np.float64) @ texts.astype(np.float64).T
    right = np.array([[(i, t) in paired for t in text_ids] for i in image_ids])
    metrics = {}
    for way, s, ok in (("image_to_text", similarity, right), ("text_to_image", similarity.T, right.T)):
        found = [1 + np.sum(row[~good] >= row[good].max()) for row, good in zip(s, ok, strict=True)]
        metrics |= {f"retrieval/{way}/r{k}": np.mean(np.array(found) <= k) for k in ks}
        metrics |= {f"retrieval/{way}/map{k}": np.mean([*plain_precision(s, ok, k)]) for k in ks if k > 1}
        metrics[f"retrieval/{way}/median_rank"] = np.median(found)
    return metrics


def plain_precision(similarity, right, k):
    """Average precision at k of each row, the wrong first among equally similar ones."""
    for row, good in zip(similarity, right, strict=True):
        hits = good[np.lexsort((good, -row))][:k]
        yield sum(hits[: i + 1].mean() for i in np.flatnonzero(hits)) / min(k, good.sum())


def world(n=24, noise=2.0, seed=0):
    random = np.random.default_rng(seed)
    images = unit(random.normal(size=(n, 8)))
    texts = {f"text {i}": unit(images[i] + noise * random.normal(size=8) / 8**0.5) for i in range(n)}
    return FakeModel(images, texts), pictures(range(n)), list(texts)


def test_metrics_equal_their_definition():
    model, images, texts = world()
    found = Retrieval(data=given(image=images, text=texts)).run(model)
    assert list(found) == [
        *(f"retrieval/image_to_text/{name}" for name in NAMES),
        *(f"retrieval/text_to_image/{name}" for name in NAMES),
    ]
    expected = plain(model.images, np.stack(list(model.texts.values())), range(24), range(24), range(24))
    assert found == pytest.approx(expected)
    assert 0 < found["retrieval/image_to_text/r1"] < found["retrieval/image_to_text/r5"] < 1


def test_equal_ids_and_equal_texts_are_the_same_answer():
    model, images, texts = world()
    picture = np.arange(24) // 2  # pictures 0 and 1 are the same, and so on
    model.images = model.images[picture * 2]
    texts = [texts[i - i % 3] for i in range(24)]  # names 0, 1 and 2 are the same, and so on
    text_ids = np.array([100 - i // 3 for i in range(24)])
    data = given(image=images, text=texts, image_id=picture.astype(np.int32), text_id=text_ids.astype(np.int32))
    found = Retrieval(data=data).run(model)
    embedded = np.stack([model.texts[text] for text in texts])
    assert found == pytest.approx(plain(model.images, embedded, range(24), picture, text_ids))
    alone = Retrieval(data=given(image=images, text=texts)).run(model)
    assert alone["retrieval/image_to_text/r1"] < found["retrieval/image_to_text/r1"]
    assert alone == pytest.approx(plain(model.images, embedded, range(24), range(24), text_ids))  # strings are ids


def test_image_with_several_texts_is_correct_with_any():
    model, images, texts = world()
    groups = [tuple(texts[2 * i : 2 * i + 2]) for i in range(12)]
    text_ids = np.arange(24, dtype=np.int32).reshape(12, 2)
    found = Retrieval(data=given(image=images[:12], text=groups, text_id=text_ids), ks=(1, 2)).run(model)
    embedded = np.stack([model.texts[text] for text in texts])
    owner = np.repeat(np.arange(12), 2)
    assert found == pytest.approx(plain(model.images[:12], embedded, owner, range(12), range(24), (1, 2)))


def test_positive_pairs_by_ids():
    random = np.random.default_rng(0)
    query, candidate, pairs = random.integers(6, size=10), random.integers(6, size=14), random.integers(6, size=(9, 2))
    known = {tuple(pair) for pair in pairs.tolist()}
    expected = [(q, c) for q in range(10) for c in range(14) if (query[q], candidate[c]) in known]
    assert sorted(zip(*positive_pairs(query, candidate, pairs), strict=True)) == expected


def test_constant_model_has_zero_recall():
    _, images, texts = world()
    constant = FakeModel(np.tile(unit([1, 2, 3]), (24, 1)), dict.fromkeys(texts, unit([1, 2, 3])))
    found = Retrieval(data=given(image=images, text=texts)).run(constant)
    assert [value for name, value in found.items() if "rank" not in name] == [0] * 10
    assert found["retrieval/image_to_text/median_rank"] == 24


def test_nan_is_an_error_that_names_the_example():
    model, images, texts = world()
    model.block_size = 5
    model.images[17, 3] = np.nan
    with pytest.raises(JaxrepError, match="'image' of example 17 is not finite"):
        Retrieval(data=given(image=images, text=texts)).run(model)
    model, images, texts = world()
    model.texts["text 4"][0] = np.nan
    with pytest.raises(JaxrepError, match="the text 'text 4' is not finite"):
        Retrieval(data=given(image=images, text=texts)).run(model)


def test_block_size_does_not_change_the_result():
    model, images, texts = world()
    evaluation = Retrieval(data=given(image=images, text=texts))
    whole = evaluation.run(model)
    model.block_size = 7
    assert evaluation.run(model) == whole


def test_no_examples_are_an_error():
    with pytest.raises(JaxrepError, match="no examples"):
        Retrieval(data=given(image=pictures([]), text=[])).run(world()[0])


def test_columns_and_name_are_in_the_metric_names():
    model, images, texts = world()
    model.fields = {"photo": model.fields["image"], "title": model.fields["text"]}
    found = Retrieval(data=given(photo=images, title=texts), image="photo", text="title", ks=(3,), name="shop").run(
        model
    )
    assert set(found) == {
        f"shop/{way}/{name}" for way in ("photo_to_title", "title_to_photo") for name in ("r3", "map3", "median_rank")
    }


def test_coco_and_flickr30k_in_karpathys_layout(tmp_path):
    model, _, texts = world()
    rows = []
    for number in range(6):
        (tmp_path / "val2014").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"val2014/{number}.png")
        sentences = [{"raw": f" {texts[(number * 4 + i) % 24]}", "sentid": i} for i in range(5)]
        split = ("test", "train", "restval")[number % 3]
        rows.append({"filepath": "val2014", "filename": f"{number}.png", "split": split, "sentences": sentences})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": rows, "dataset": "coco"}))
    coco = Retrieval.coco(str(tmp_path), image_size=2)
    assert not [*coco.problems()]
    found = coco.run(model)
    strings = [sentence["raw"].strip() for number in (0, 3) for sentence in rows[number]["sentences"]]
    ids = np.unique(strings, return_inverse=True)[1]
    embedded = np.stack([model.texts[text] for text in strings])
    expected = plain(model.images[[0, 3]], embedded, np.repeat([0, 1], 5), range(2), ids)
    assert found == pytest.approx({name.replace("retrieval", "coco"): value for name, value in expected.items()})
    both = Retrieval.coco(str(tmp_path), image_size=2, split="train+restval")
    assert both.data.open().column("key") == [f"val2014/{number}.png" for number in (1, 2, 4, 5)]
    with pytest.raises(UsageError, match="has no split 'tset'; did you mean test"):
        Retrieval.coco(str(tmp_path), split="tset").data.open()

    (tmp_path / "val2014").rename(tmp_path / "flickr30k-images")
    for row in rows:
        del row["filepath"]
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": rows, "dataset": "flickr30k"}))
    flickr = Retrieval.flickr30k(str(tmp_path), image_size=2).run(model)
    assert [*flickr.values()] == [*found.values()]
    (tmp_path / "dataset_flickr30k.json").write_text("[]")
    with pytest.raises(UsageError, match=r"does not have the layout of Karpathy"):
        Retrieval.flickr30k(str(tmp_path)).data.open()
