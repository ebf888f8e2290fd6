"""Similarity and classification of pairs of texts equal scipy's and scikit-learn's numbers."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, precision_recall_curve

from jaxrep.data.openmoji.pairs import EmojiPairs
from jaxrep.data.sources.csv_table import Csv
from jaxrep.errors import UsageError
from jaxrep.evals.base import run_evals
from jaxrep.evals.text.sentence_pairs import PairClassification, SentenceSimilarity, threshold_metrics
from tests.helpers.fake_model import FakeModel, given, unit


def world(n=40, seed=0):
    random = np.random.default_rng(seed)
    texts = {f"text {i}": x for i, x in enumerate(unit(random.normal(size=(n, 5))))}
    names = list(texts)
    one, other = (random.choice(names, n).tolist() for _ in range(2))
    cosines = np.array([texts[a].astype(np.float64) @ texts[b] for a, b in zip(one, other, strict=True)])
    scores = np.round(cosines * 2 + random.normal(size=n))  # few values, so that people's scores tie
    return FakeModel(None, texts), one, other, cosines, scores


def test_similarity_equals_scipy():
    model, one, other, cosines, scores = world()
    found = SentenceSimilarity(data=given(text=one, text_2=other, score=scores)).run(model)
    assert found == pytest.approx(
        {
            "sts/spearman": stats.spearmanr(cosines, scores).statistic,
            "sts/pearson": stats.pearsonr(cosines, scores).statistic,
        },
        rel=1e-6,
    )
    assert 0.3 < found["sts/spearman"] < 0.95


def test_tab_separated_table(tmp_path):
    model, one, other, _, scores = world()
    rows = zip(one, other, scores, strict=True)
    lines = ["sentence1\tsentence2\tscore", *(f"{a}\t{b}\t{s}" for a, b, s in rows)]
    (tmp_path / "sts.tsv").write_text("\n".join(lines))
    table = Csv(path=str(tmp_path / "sts.tsv"), separator="\t", image="", text="sentence1", captions=("sentence2",))
    evaluation = SentenceSimilarity(data=table, second="sentence2")
    assert not [*evaluation.problems()]
    assert evaluation.run(model) == SentenceSimilarity(data=given(text=one, text_2=other, score=scores)).run(model)


def test_pairs_without_a_sentence_or_a_number_are_left_out_and_counted(tmp_path):
    model, one, other, _, scores = world()
    labels = (scores > np.median(scores)).astype(int).tolist()
    one[3], other[8], labels[12] = "", " ", ""
    rows = ["text,text_2,score,label", *(f"{a},{b},{s},{k}" for a, b, s, k in zip(one, other, scores, labels))]  # noqa: B905
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    table = Csv(path=str(tmp_path / "pairs.csv"), image="", text="text", captions=("text_2",))
    kept = np.delete(np.arange(40), [3, 8, 12])
    columns = {"text": [one[i] for i in kept], "text_2": [other[i] for i in kept], "label": [labels[i] for i in kept]}
    found = run_evals((PairClassification(data=table),), model)
    expected = PairClassification(data=given(**columns | {"label": np.array(columns["label"])})).run(model)
    assert found == expected | {"pairs/skipped_examples": 3.0}
    assert run_evals((SentenceSimilarity(data=table),), model)["sts/skipped_examples"] == 2  # its number is the score


@pytest.mark.parametrize("ties", [False, True])
def test_threshold_metrics_equal_scikit_learn(ties):
    random = np.random.default_rng(1)
    labels = random.random(60) < 0.4
    scores = random.normal(size=60) + labels
    scores = np.round(scores) if ties else scores
    found = threshold_metrics(scores, labels)
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = {
        "average_precision": average_precision_score(labels, scores),
        "accuracy": max(accuracy_score(labels, scores >= t) for t in [*np.unique(scores), np.inf]),
        "f1": max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert accuracy_score(labels, scores >= found["accuracy_threshold"]) == pytest.approx(found["accuracy"])
    assert f1_score(labels, scores >= found["f1_threshold"]) == pytest.approx(found["f1"])
    best = scores >= found["f1_threshold"]
    assert (found["precision"], found["recall"]) == pytest.approx((labels[best].mean(), best[labels].mean()))


def test_equal_scores_gain_nothing_by_the_order_of_pairs():
    labels = np.array([True] * 3 + [False] * 7)
    found = threshold_metrics(np.full(10, 0.7), labels)
    assert found["average_precision"] == pytest.approx(0.3)
    assert found["precision"] == pytest.approx(0.3)


def test_unusable_columns_are_one_sentence():
    model, one, other, _, scores = world()
    with pytest.raises(UsageError, match="all pairs have the same score"):
        SentenceSimilarity(data=given(text=one, text_2=other, score=np.ones(40))).run(model)
    with pytest.raises(UsageError, match="'label' is 1 for pairs of equal meaning"):
        PairClassification(data=given(text=one, text_2=other, label=scores)).run(model)
    with pytest.raises(UsageError, match="'score' of data does not hold finite numbers"):
        SentenceSimilarity(data=given(text=one, text_2=other, score=one)).run(model)


def test_emoji_names_in_two_languages_are_paraphrases():
    source = EmojiPairs(languages=("en", "es"), split="random")
    pairs = source.open()
    text, other, label, score = (pairs.column(name) for name in ("text", "text_2", "label", "score"))
    assert set(source.fields()) == set(pairs[0])
    assert set(score.tolist()) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(label, score == 4)
    same = {a: b for a, b, yes in zip(text, other, label, strict=True) if yes}
    assert same["thinking face"] == "cara pensativa"
    blind = FakeModel(None, dict.fromkeys([*text, *other], unit([1, 2, 3])))
    found = PairClassification(data=source).run(blind)
    assert found["pairs/average_precision"] == pytest.approx(label.mean())
    assert found["pairs/accuracy"] == pytest.approx(1 - label.mean())
