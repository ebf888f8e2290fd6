"""Information retrieval: documents that answer a query, with graded judgments, over a whole corpus.

Thakur et al. 2021, BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models
(arXiv:2104.08663): its folders are read as they are.
"""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadShard, UsageError
from jaxrep.evals.base import Eval
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.ranking import NEVER, average_precision, graded_places
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec
from jaxrep.storage import read


class Judged(NamedTuple):
    """Texts by id, and of each query the documents that were judged: 0 is wrong, a higher grade more right."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]


@spec
class Judgments:
    """Abstract: the declaration of queries, documents and judgments."""

    def load(self) -> Judged:
        raise TypeError(f"{type(self).__name__} does not load judgments")


@spec
class Beir(Judgments):
    """A folder as BEIR lays it out: corpus.jsonl, queries.jsonl, and qrels/<split>.tsv."""

    path: str
    """The folder, or its URL."""
    split: str = "test"
    """Which judgments."""

    def load(self) -> Judged:
        root = local(self.path).rstrip("/")
        documents = {name: f"{row.get('title') or ''} {row['text']}".strip() for name, row in _lines(root, "corpus")}
        queries = {name: row["text"] for name, row in _lines(root, "queries")}
        return Judged(queries, documents, _qrels(f"{root}/qrels/{self.split}.tsv"))


def _text(path: str) -> str:
    try:
        return read(path).decode("utf-8-sig")
    except (BadShard, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}") from error


def _lines(root: str, what: str) -> Iterator[tuple[str, dict]]:
    path = f"{root}/{what}.jsonl"
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                yield str(row["_id"]), {**row, "text": str(row["text"])}
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(f"{path}, line {number}: no object with _id and text ({error!r})") from error


def _qrels(path: str) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 3 or (number > 1 and not parts[2].strip().lstrip("-").isdigit()):
            raise UsageError(f"{path}, line {number}: query, document and grade stand there, separated by tabs")
        if parts[2].strip().lstrip("-").isdigit():  # the first line may name the columns
            grades.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    return grades


@spec
class InformationRetrieval(Eval):
    """nDCG, recall, MRR and MAP at k over the queries that have a right document, ties counted against the model.

    ``ndcg<k>``: gains are the grades, as trec_eval counts; ``mrr<k>``: one over the place of the first right document,
    0 beyond k; ``recall<k>``: the share of right documents among the first k; ``map<k>``: ``average_precision``. A
    document that has the id of the query is left out, as in BEIR.
    """

    data: Judgments
    """Queries, documents and which are right."""
    ks: tuple[int, ...] = (10, 100)
    """How many of the first documents are looked at."""
    query_prefix: str = ""
    """Put before each query, as models are trained that tell them from documents: "query: "."""
    document_prefix: str = ""
    """Put before each document."""
    tower: str = "text"
    """The model's tower for texts."""
    name: str = "ir"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.tower,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts documents, from 1, and is not {self.ks}"

    def run(self, model: Model) -> dict[str, float]:
        judged = self.data.load()
        names, positives, grades = judged_pairs(judged, self.name)
        queries = embed_texts(model, [self.query_prefix + judged.queries[name] for name in names], self.tower)
        documents = [self.document_prefix + text for text in judged.documents.values()]
        gallery = embed_texts(model, documents, self.tower)
        places, found = graded_places(queries, gallery, positives, grades, max(self.ks))
        right, metrics = np.bincount(positives[0], grades > 0, len(names)), {}
        for k in self.ks:
            metrics[f"{self.name}/ndcg{k}"] = Sample(ndcg(places, found, positives[0], grades, k))
            metrics[f"{self.name}/mrr{k}"] = Sample(np.where(places[:, 0] <= k, 1 / places[:, 0], 0))
            metrics[f"{self.name}/recall{k}"] = Sample((places <= k).sum(axis=1) / right)
            metrics[f"{self.name}/map{k}"] = Sample(average_precision(places, k))
        return metrics


def judged_pairs(judged: Judged, name: str) -> tuple[list[str], tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Queries that have a right document, (query, document) indices of what is right or left out, and its grades.

    Raises UsageError: a judgment names what is not there, no query has a right document.
    """
    row = {document: number for number, document in enumerate(judged.documents)}
    names, pairs = [], []
    for query, documents in judged.grades.items():
        right = {document: grade for document, grade in documents.items() if grade > 0 and document != query}
        if missing := [document for document in right if document not in row] or [query] * (
            query not in judged.queries
        ):
            raise UsageError(f"{name}: the judgments name '{missing[0]}', which is none of the queries or documents")
        if right:
            left_out = {query: 0} if query in row else {}
            pairs += [(len(names), row[document], grade) for document, grade in {**right, **left_out}.items()]
            names.append(query)
    if not names:
        raise UsageError(f"{name}: no query has a right document")
    query, document, grade = np.array(pairs).T
    return names, (query, document), grade


def ndcg(
    places: Int[np.ndarray, "Q P"],
    found: Int[np.ndarray, "Q P"],
    query: Int[np.ndarray, " E"],
    grades: Int[np.ndarray, " E"],
    k: int,
) -> Float[np.ndarray, " Q"]:
    """Discounted gain of the first k, over that of the best order: ``sum grade / log2(1 + place)`` (Jarvelin &
    Kekalainen 2002, with linear gains).

    Args:
        places, found: of the k best right documents or more, with their grades.
        query, grades: of all judged pairs.
    """
    shown = np.where(places <= k, places, NEVER)
    gain = np.where(shown != NEVER, found / np.log2(1.0 + shown), 0).sum(axis=1)
    order = np.lexsort((-grades, query))
    counts = np.bincount(query, minlength=len(places))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    ideal = np.where(place < k, grades[order] / np.log2(2.0 + place), 0)
    return gain / np.bincount(query[order], ideal, len(places))
