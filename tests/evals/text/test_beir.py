"""Metrics of information retrieval equal scikit-learn's and plain definitions."""

import json

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from jaxrep.errors import UsageError
from jaxrep.evals.base import run_evals
from jaxrep.evals.text.beir import Beir, InformationRetrieval
from tests.helpers.fake_model import FakeModel, unit


@pytest.fixture
def folder(tmp_path):
    """30 documents, 12 queries with 1 to 4 right documents of grades 1 to 3; query "d3" is a document as well."""
    random = np.random.default_rng(0)
    documents = [{"_id": f"d{i}", "title": "" if i % 2 else f"title {i}", "text": f"words {i}"} for i in range(30)]
    queries = [{"_id": "d3" if i == 3 else f"q{i}", "text": f"query {i}"} for i in range(13)]
    lines = ["query-id\tcorpus-id\tscore"]
    for i in range(12):
        for place, d in enumerate(random.permutation(30)[: 2 + i % 4]):
            lines.append(f"{queries[i]['_id']}\td{d}\t{place % 4}")  # the first one is judged, and wrong
    lines.append("q12\td0\t0")
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def model(vectors=34):
    random = np.random.default_rng(1)
    pool = unit(random.normal(size=(vectors, 6)))
    documents = {(f"words {i}" if i % 2 else f"title {i} words {i}"): pool[random.integers(vectors)] for i in range(30)}
    return FakeModel(None, documents | {f"query {i}": pool[random.integers(vectors)] for i in range(13)})


def plain(judged, model, ks):
    """Query by query, from a sorted list in which what is less right comes first among equals."""
    found = {}
    for query, grades in judged.grades.items():
        if not any(grade > 0 for document, grade in grades.items() if document != query):
            continue
        vector = model.texts[judged.queries[query]].astype(np.float64)
        scores = {d: round(float(vector @ model.texts[text]), 7) for d, text in judged.documents.items() if d != query}
        order = sorted(scores, key=lambda d: (-scores[d], grades.get(d, 0)))
        order += [d for d in grades if d not in judged.documents]  # behind more documents than any k
        gains = np.array([grades.get(d, 0) for d in order])
        right = (gains > 0).sum()
        for k in ks:
            best = np.sort(gains)[::-1][:k]
            discount = 1 / np.log2(2 + np.arange(len(order)))
            hits = gains[:k] > 0
            values = {
                "ndcg": (gains[:k] @ discount[:k]) / (best @ discount[: len(best)]),
                "mrr": 1 / (1 + hits.argmax()) if hits.any() else 0,
                "recall": hits.sum() / right,
                "map": sum(hits[: i + 1].mean() for i in np.flatnonzero(hits)) / min(k, right),
            }
            for name, value in values.items():
                found.setdefault(f"ir/{name}{k}", []).append(value)
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize("vectors", [34, 5])
def test_metrics_equal_their_definitions_with_ties(folder, vectors):
    data = Beir(path=str(folder))
    evaluation = InformationRetrieval(data=data, ks=(1, 5, 20))
    assert not [*evaluation.problems()]
    found = evaluation.run(model(vectors))
    assert found == pytest.approx(plain(data.load(), model(vectors), (1, 5, 20)), rel=1e-6)
    assert len(found["ir/ndcg5"].values) == 12  # the query without a right document is left out
    assert 0 < found["ir/ndcg5"] < 1


def test_ndcg_equals_scikit_learn(folder):
    judged, fake = Beir(path=str(folder)).load(), model(2000)  # no ties
    expected = []
    for query, grades in judged.grades.items():
        kept = [d for d in judged.documents if d != query]
        truth = [max(grades.get(d, 0), 0) for d in kept]
        if any(truth):
            scores = [fake.texts[judged.queries[query]] @ fake.texts[judged.documents[d]] for d in kept]
            expected.append(ndcg_score([truth], [scores], k=10))
    found = InformationRetrieval(data=Beir(path=str(folder))).run(fake)
    assert found["ir/ndcg10"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_prefixes_of_queries_and_documents(folder):
    fake = model()
    fake.texts = {f"{'query: ' if text[0] == 'q' else 'passage: '}{text}": x for text, x in fake.texts.items()}
    evaluation = InformationRetrieval(data=Beir(path=str(folder)), query_prefix="query: ", document_prefix="passage: ")
    assert evaluation.run(fake) == InformationRetrieval(data=Beir(path=str(folder))).run(model())


def test_folder_as_it_is_distributed(folder):
    expected = InformationRetrieval(data=Beir(path=str(folder)), ks=(1, 5)).run(model())
    qrels = (folder / "qrels/test.tsv").read_text()
    whole = "".join(f"{line}.0\r\n\r\n" if line[-1].isdigit() else f"{line}\r\n" for line in qrels.splitlines())
    (folder / "qrels/test.tsv").write_bytes(b"\xef\xbb\xbf" + whole.encode() + b" \n")
    (folder / "corpus.jsonl").write_text((folder / "corpus.jsonl").read_text().replace("\n", "\n\n"))
    assert InformationRetrieval(data=Beir(path=str(folder)), ks=(1, 5)).run(model()) == expected


def test_text_of_null_is_empty(folder):
    (folder / "corpus.jsonl").write_text(
        '{"_id": "a", "text": null}\n{"_id": "b", "title": null, "text": "b"}\n{"_id": "c", "title": "c", "text": null}'
    )
    assert Beir(path=str(folder)).load().documents == {"a": "", "b": "b", "c": "c"}


@pytest.mark.parametrize("missing", [["d99"], ["d98", "d99"], ["d99", "d3"]])
def test_judged_document_that_the_corpus_lacks_counts_as_never_found(folder, missing, capsys):
    """As with pytrec_eval, whose run does not hold it: the plain definition with the document behind all others."""
    lines = (folder / "qrels/test.tsv").read_text().splitlines()
    lines += [f"q{query}\t{document}\t{grade}" for query, grade in ((1, 3), (12, 1)) for document in missing]
    lines.append("q77\td1\t1")
    (folder / "qrels/test.tsv").write_text("\n".join(lines))
    fake, data = model(), Beir(path=str(folder))
    found = run_evals((InformationRetrieval(data=data, ks=(1, 5, 20)),), fake)
    absent = [document for document in missing if document != "d3"]
    assert found.pop("ir/skipped_examples") == 2 * len(absent) + 1
    said = capsys.readouterr().err
    assert "never found" in said and said.count("\n") == 1
    judged = data.load()
    del judged.grades["q77"]
    assert {name: float(value) for name, value in found.items()} == pytest.approx(plain(judged, fake, (1, 5, 20)))


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("qrels/test.tsv", "q0\td1\n", "line 1: expected query, document and grade"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td1\tgood\n", "line 2: expected query, document and grade"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\n\nq0\td1\t0.5\n",
            "line 3: expected query, document and grade, a whole number",
        ),
        ("qrels/test.tsv", "q99\td1\t1\n", "no query has a relevant document"),
        ("qrels/test.tsv", "q0\td1\t0\n", "no query has a relevant document"),
        ("queries.jsonl", '{"_id": "q0"}\n', "line 1: no object with _id and text"),
    ],
)
def test_wrong_layout_names_file_and_line(folder, file, content, sentence):
    (folder / file).write_text(content)
    with pytest.raises(UsageError, match=sentence):
        InformationRetrieval(data=Beir(path=str(folder))).run(model())


def test_missing_split_is_one_sentence(folder):
    with pytest.raises(UsageError, match=r"qrels/dev\.tsv"):
        Beir(path=str(folder), split="dev").load()
