"""What is found in a space: pictures and texts that belong together, hits and misses, classes taken for others."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxrep.metrics.ranking import best_ranks
from jaxrep.report import figures
from jaxrep.report.run_facts import RunFacts
from jaxrep.report.space import Predictions, Space, _nearest_mean, matches, search
from tests.helpers.harness import RECIPE


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_matches_by_ids():
    # Two copies of picture 7 with the texts "a" and "b": each text is right for both.
    expected = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(matches([7, 7, 8], None, ["a", "b", "c"]), expected)
    np.testing.assert_array_equal(matches(None, None, ["a", "a", "c"]), expected)
    np.testing.assert_array_equal(matches(None, [3, 4, 5], ["a", "a", "c"]), np.eye(3))
    np.testing.assert_array_equal(matches(None, [(3, 1), (3, 2), (5, 0)], ["a", "a", "c"]), expected)  # the first of V


def test_search_ranks_equal_retrieval_ranks():
    random = np.random.default_rng(0)
    image = unit(random.normal(size=(40, 3)).astype(np.float32))
    text = unit(image + 0.5 * random.normal(size=(40, 3)).astype(np.float32))
    match = matches(np.arange(40) // 2, None, [str(i) for i in range(40)])
    oracle = best_ranks(image, text, np.nonzero(match))
    hits, misses = search(image, text, match, show=4, first=3)
    assert [found.rank for found in hits] == [1] * 4
    assert [found.rank for found in misses] == sorted(oracle, reverse=True)[:4]
    assert all(found.rank == oracle[found.query] and match[found.query, found.target] for found in hits + misses)
    assert all(found.similarity == sorted(found.similarity, reverse=True) for found in misses)
    assert all(found.correct == [bool(match[found.query, j]) for j in found.best] for found in misses)


def test_tie_is_a_miss():
    same = np.tile(unit(np.ones((1, 2), np.float32)), (3, 1))
    hits, misses = search(same, same, np.eye(3, dtype=bool), first=1)
    assert not hits
    assert [(found.rank, found.correct) for found in misses] == [(3, [False])] * 3


def test_nearest_mean_excludes_the_example():
    image = unit(np.array([[1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [1, 0.2]]))
    labels = np.array([0, 0, 1, 1, 2])  # the last is alone in its class: nothing is left to be near to
    np.testing.assert_array_equal(_nearest_mean(image, labels)[:4], [2, 0, 1, 1])
    assert _nearest_mean(image, labels)[4] == 0


@pytest.fixture
def space():
    random = np.random.default_rng(1)
    vectors = unit(random.normal(size=(2, 12, 4)))
    labels = Predictions("kind", ("cat", "dog", "none of these"), np.arange(12) % 2, np.zeros(12, int), "chance")
    return Space(
        "made", 12, [], [f"text {i}</script>" for i in range(12)], *vectors, np.eye(12, dtype=bool), labels, []
    )


def test_confusion_matrix(space):
    figure = json.loads(figures.confusion(space.nearest_mean))["data"][0]
    assert values(figure["z"]) == [1, 0, 0, 1, 0, 0]
    assert figure["y"] == ["cat", "dog"]  # those that occur
    assert figure["text"][1][0] == "dog, predicted cat: 6 of 6"


def test_similarity_matrix_has_cosines_and_images(space):
    figure = json.loads(figures.similarity(space, list(range(100, 112))))["data"][0]
    order = [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]  # by class
    expected = space.image[order] @ space.text[order].T
    np.testing.assert_allclose(values(figure["z"]), expected.ravel(), atol=1e-4)  # four decimals are kept
    assert [row[0][0] for row in figure["customdata"]] == [100 + i for i in order]


def test_maps_have_every_image(space):
    ids = list(range(100, 112))
    neighbors = json.loads(figures.neighbors_map(space, ids))["data"]
    assert [part["name"] for part in neighbors] == ["cat", "dog", "none of these"]
    shown = [about[0] for part in neighbors for about in part["customdata"]]
    assert sorted(shown) == ids
    gap = json.loads(figures.gap_map(space, ids))["data"]
    assert [len(part["customdata"]) for part in gap] == [12, 12]


def test_text_cannot_end_its_script_element(space):
    assert "</script>" not in figures.gap_map(space, list(range(12)))
    assert "text 3</script>" in json.loads(figures.gap_map(space, list(range(12))))["data"][0]["customdata"][3]


def test_names_are_text_for_plotly_which_reads_html(space):
    """In names, labels and tooltips of figures, plotly takes <a> and <b> for links and styles."""
    hostile = Predictions("kind", ("<b>", "<a href='x'>c</a>"), np.arange(12) % 2, np.zeros(12, int), "chance")
    run = RunFacts(Path(), "<i>run", RECIPE, lines=[{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}])
    drawn = [
        figures.confusion(hostile),
        figures.neighbors_map(dataclasses.replace(space, nearest_mean=hostile, texts=["x"] * 12), list(range(12))),
        figures.curve("loss", [run]),
    ]
    for figure in drawn:
        assert not re.search("<[abi][ >]", figure.replace("\\u003c", "<").replace("<extra>", ""))
    assert json.loads(drawn[0])["data"][0]["y"] == ["&lt;b&gt;", "&lt;a href=&#x27;x&#x27;&gt;c&lt;/a&gt;"]


def test_long_curve_keeps_spikes():
    lines = [{"step": i, "loss": 1.0} for i in range(50_000)]
    lines[31_234]["loss"], lines[40_000]["loss"], lines[7]["loss"] = 9.0, -3.0, None
    step, value = figures.series(lines, "loss")
    assert len(step) <= figures.MAX_POINTS + 2
    assert (value[step == 31_234], value[step == 40_000]) == (9, -3)
    assert (step[0], step[-1]) == (0, 49_999)
    assert np.isnan(figures.series(lines[:20], "loss")[1][7])


def values(array):
    """Numbers of an array in a figure, which plotly packs where it is long."""
    if isinstance(array, dict):
        import base64

        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist()
    return np.ravel(array).tolist()
