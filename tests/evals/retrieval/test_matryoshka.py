"""The curve over widths and the funnel equal plain searches, and the cost is what is multiplied."""

import numpy as np
import pytest

from jaxrep.errors import JaxrepError
from jaxrep.evals.retrieval import matryoshka
from jaxrep.evals.retrieval.matryoshka import Matryoshka, adaptive_hits, first_dims, multiply_adds
from jaxrep.metrics.ranking import best_ranks
from tests.helpers.fake_model import FakeModel, given, pictures, unit


def world(n=40, width=16, seed=0):
    """The first coordinates say most, the last ones little."""
    random = np.random.default_rng(seed)
    scale = 0.8 ** np.arange(width)
    images = unit(random.normal(size=(n, width)) * scale)
    texts = {f"text {i}": unit(x + 0.12 * random.normal(size=width)) for i, x in enumerate(images)}
    return FakeModel(images, texts), given(image=pictures(range(n)), text=list(texts))


def plain(queries, gallery, right, funnel):
    """Query by query: wrong candidates that tie come before right ones, and right ones do not compete."""
    found = []
    for q, query in enumerate(queries):
        alive = set(range(len(gallery)))
        for dims, kept in (*funnel, (len(query), 1)):
            cut = [x[:dims] / np.linalg.norm(x[:dims]) for x in (query, *gallery)]
            scores = {g: round(float(cut[0] @ cut[1 + g]), 6) for g in alive}
            wrong = sorted((scores[g] for g in alive if (q, g) not in right), reverse=True)
            bar = wrong[kept - 1] if len(wrong) >= kept else -np.inf
            alive = {g for g in alive if (scores[g] > bar if (q, g) in right else scores[g] >= bar)}
        found.append(any((q, g) in right for g in alive))
    return found


@pytest.mark.parametrize("at_once", [1, 100, 2**24])
@pytest.mark.parametrize("funnel", [((2, 3),), ((2, 12), (5, 4)), ((3, 1),), ()])
def test_funnel_equals_a_plain_search_with_ties_and_several_positives(monkeypatch, at_once, funnel):
    monkeypatch.setattr(matryoshka, "MAX_SIMILARITIES", at_once)
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(15, 8)) * 0.7 ** np.arange(8))
    queries, gallery = vectors[random.integers(15, size=30)], vectors[random.integers(15, size=20)]
    right = {(q, int(g)) for q in range(30) for g in random.choice(20, 1 + q % 3, replace=False)}
    right |= {(q, int(np.argmax(gallery @ queries[q]))) for q in range(0, 30, 2)}
    pairs = tuple(np.array(sorted(right)).T)
    found = adaptive_hits(queries, gallery, pairs, funnel)
    assert found.tolist() == plain(queries.astype(np.float64), gallery.astype(np.float64), right, funnel)
    assert 0 < found.mean() < 1
    if not funnel:
        assert found.tolist() == (best_ranks(queries, gallery, pairs) == 1).tolist()


def test_wide_funnel_equals_full_width_and_narrow_one_is_cheaper():
    model, data = world()
    run = lambda funnel: Matryoshka(data=data, dims=(2, 4, 16), funnel=funnel).run(model)  # noqa: E731
    wide, narrow = run(((2, 40),)), run(((2, 2),))
    way = "matryoshka/image_to_text"
    assert wide[f"{way}/adaptive/r1"] == wide[f"{way}/16/r1"]
    assert narrow[f"{way}/adaptive/r1"] <= wide[f"{way}/adaptive/r1"]
    assert narrow[f"{way}/adaptive/r1"] >= narrow[f"{way}/2/r1"]
    assert narrow[f"{way}/adaptive/multiply_adds"] == pytest.approx((40 * 2 + 2 * 16) / (40 * 16))
    assert wide[f"{way}/2/r1"] < wide[f"{way}/4/r1"] < wide[f"{way}/16/r1"]


def test_recall_per_width_uses_the_first_coordinates():
    model, data = world()
    found = Matryoshka(data=data, dims=(1, 3)).run(model)
    texts = np.stack([*model.texts.values()])
    for dims in (1, 3):
        a, b = (x[:, :dims] / np.linalg.norm(x[:, :dims], axis=1, keepdims=True) for x in (model.images, texts))
        similarity = np.round(a @ b.T, 6)
        expected = [sum(row >= row[i]) == 1 for i, row in enumerate(similarity)]
        assert found[f"matryoshka/image_to_text/{dims}/r1"].values.tolist() == expected
    assert not [name for name in found if "adaptive" in name]
    np.testing.assert_array_equal(first_dims(np.zeros((2, 4), np.float32), 2), 0)


def test_multiply_adds_count_the_candidates_of_each_stage():
    assert multiply_adds(1000, 256, ()) == 256_000
    assert multiply_adds(1000, 256, ((16, 200), (64, 50))) == 16_000 + 200 * 64 + 50 * 256
    assert multiply_adds(100, 256, ((16, 200),)) == 1600 + 100 * 256


def test_problems_of_funnel_and_dims():
    model, data = world()
    assert not [*Matryoshka(data=data, dims=(4,), funnel=((2, 9), (4, 3))).problems()]
    for funnel in (((4, 9), (2, 3)), ((2, 3), (4, 9))):
        assert "funnel needs increasing dimensions" in next(Matryoshka(data=data, dims=(4,), funnel=funnel).problems())
    with pytest.raises(JaxrepError, match="the embeddings have 16 dimensions, not 32"):
        Matryoshka(data=data, dims=(32,)).run(model)
