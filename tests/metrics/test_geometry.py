"""Check measures of a space against known values and against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestNeighbors

from jaxrep.errors import JaxrepError
from jaxrep.evals.embedding_space import EmbeddingSpace
from jaxrep.losses.geometry import uniformity
from jaxrep.metrics.geometry import linear_cka, linear_separability, mean_cosine, modality_gap_shares
from jaxrep.metrics.neighbors import intrinsic_dimension, mutual_neighbors, nearest_neighbors
from tests.helpers.fake_model import FakeModel, given, pictures, unit


def cloud(rows, width, seed=0, shift=0.0):
    return unit(np.random.default_rng(seed).normal(size=(rows, width)) + shift)


def test_uniformity_across_modalities_equals_definition():
    a, b = cloud(17, 4), cloud(17, 4, seed=1)
    expected = [np.exp(-2 * np.sum((a[i] - b[j]) ** 2)) for i in range(17) for j in range(17) if i != j]
    assert uniformity(jnp.asarray(a), jnp.asarray(b), block_size=5) == pytest.approx(
        np.log(np.mean(expected)), rel=1e-5
    )


def test_mean_cosine_excludes_pairs():
    a, b = cloud(9, 4, shift=0.5), cloud(9, 4, seed=1)
    for one, other in ((a, None), (a, b)):
        right = one if other is None else other
        expected = np.mean([one[i] @ right[j] for i in range(9) for j in range(9) if i != j])
        assert mean_cosine(one, other) == pytest.approx(expected, rel=1e-5)
    assert mean_cosine(np.tile(a[:1], (5, 1))) == pytest.approx(1, abs=1e-6)
    assert abs(mean_cosine(cloud(4000, 16))) < 1e-3  # even directions: the standard error is 1 / (N sqrt(D / 2))


def test_modality_gap_shares_equal_definitions():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(40, 5)), random.normal(size=(40, 5)) + 1
    both = np.concatenate([a, b])
    total = np.sum(both.var(0))
    between = np.mean([np.sum((x.mean(0) - both.mean(0)) ** 2) for x in (a, b)])
    moved = np.mean(np.sum((a - a.mean(0) - b + b.mean(0)) ** 2, 1))
    found = modality_gap_shares(a, b)
    assert found["gap_of_variance"] == pytest.approx(between / total)
    assert found["gap_of_alignment"] == pytest.approx(1 - moved / np.mean(np.sum((a - b) ** 2, 1)))
    moved_apart = modality_gap_shares(a, a + 3)  # the same but for a shift: moving one makes pairs equal
    assert moved_apart["gap_of_alignment"] == pytest.approx(1)
    assert modality_gap_shares(a, a)["gap_of_variance"] == 0


def test_linear_separability_equals_scikit_learn():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(60, 4)), random.normal(size=(60, 4)) + 0.5
    expected = []
    for fitted, held in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        x, y = np.concatenate([a[fitted], b[fitted]]), np.repeat([0, 1], 30)
        peer = LinearDiscriminantAnalysis(solver="lsqr").fit(x, y)
        expected.append(peer.score(np.concatenate([a[held], b[held]]), y))
    assert linear_separability(a, b).mean() == pytest.approx(
        np.mean(expected), abs=2 / 120
    )  # the ridge may turn a row or two
    assert linear_separability(a, b + 9).mean() == 1
    same = np.random.default_rng(1).normal(size=(500, 8))
    assert linear_separability(same, same[::-1]).mean() == pytest.approx(
        0.5, abs=0.06
    )  # 2 deviations of 1,000 coins are 0.03


def test_linear_cka_is_invariant_and_equals_definition():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 6)), random.normal(size=(30, 4)) + 2
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)
    center = np.eye(30) - 1 / 30
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))  # Kornblith et al., equations 2 and 3
    assert linear_cka(x, y) == pytest.approx(expected)
    assert np.isnan(linear_cka(x, np.ones((30, 4))))


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_intrinsic_dimension_of_embedded_cube(dimension):
    random = np.random.default_rng(0)
    points = random.uniform(size=(2500, dimension)) @ random.normal(size=(dimension, 20))
    found = intrinsic_dimension(np.concatenate([points, points[:100]]))  # copies have no part
    # The slope's standard error is about d / sqrt(N), 2%; borders of a cube lower it, the more the higher it is.
    assert found == pytest.approx(dimension, rel=0.06)


def test_nearest_and_mutual_neighbors_equal_scikit_learn():
    x, y = cloud(50, 5), cloud(50, 3, seed=1)
    lists = [NearestNeighbors(n_neighbors=5).fit(z).kneighbors(return_distance=False) for z in (x, y)]
    np.testing.assert_array_equal(nearest_neighbors(x, 5, block_size=7), lists[0])
    expected = [len({*one} & {*other}) / 5 for one, other in zip(*lists, strict=True)]
    np.testing.assert_allclose(mutual_neighbors(x, y, 5), expected)
    assert mutual_neighbors(x, -x, 5).mean() == 1
    with pytest.raises(JaxrepError, match="50 neighbors per row need more than 50 rows"):
        nearest_neighbors(x, 50)


def test_an_evaluation_reports_every_tower_and_every_pair_of_them():
    images = cloud(40, 6)
    texts = {f"text {i}": x for i, x in enumerate(unit(images + 0.3 * cloud(40, 6, seed=1) + [2, 0, 0, 0, 0, 0]))}
    model = FakeModel(images, texts)
    data = given(image=pictures(range(40)), text=[(name, "text 0") for name in texts])
    found = EmbeddingSpace(data=data).run(model)
    b = np.stack([*texts.values()])
    assert found["geometry/image_text/modality_gap"] == pytest.approx(
        np.linalg.norm(images.mean(0) - b.mean(0)), rel=1e-5
    )
    assert found["geometry/image_text/separability"] > 0.9
    assert found["geometry/image_text/alignment"] == pytest.approx(np.mean(np.sum((images - b) ** 2, 1)), rel=1e-5)
    assert found["geometry/text/anisotropy"] > 0.5 > found["geometry/image/anisotropy"]
    assert 1 < found["geometry/text/effective_rank"] < found["geometry/image/effective_rank"] <= 6
    assert {name.rpartition("/")[2] for name in found} == {
        *("effective_rank", "intrinsic_dimension", "uniformity", "anisotropy", "cka", "mutual_neighbors", "alignment"),
        *("mean_cosine", "modality_gap", "gap_of_variance", "gap_of_alignment", "separability"),
    }
    few = EmbeddingSpace(data=data, examples=20).run(model)
    assert len(few["geometry/image_text/alignment"].values) == 20
    with pytest.raises(JaxrepError, match="10 examples are too few for 10 neighbors"):
        EmbeddingSpace(data=data, examples=10).run(model)


def test_problems_of_embedding_space_towers():
    data = given(image=pictures(range(3)), text=["a", "b", "c"])
    (sentence,) = EmbeddingSpace(data=data, towers=("image", "image")).problems()
    assert sentence.startswith("towers names each tower once")
    (sentence,) = EmbeddingSpace(data=data, towers=()).problems()
    assert sentence == "towers is empty: give at least one value"
