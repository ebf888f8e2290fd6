"""Information retrieval: documents that answer a query, with graded judgments, over a whole corpus.

Thakur et al. 2021, BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models
(arXiv:2104.08663). Its folders are read directly.
"""

import abc
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrep import hosts
from jaxrep.data.loading.readable import record_skipped
from jaxrep.data.sources.patterns import local, read_utf8
from jaxrep.errors import UsageError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.ranking import NO_RANK, Gallery, IndexPairs, Queries, Ranks, average_precision, graded_ranks
from jaxrep.reads import Output
from jaxrep.spec import Count, spec

MISSING = -1
"""Index of a judged document that the corpus lacks."""
NEVER = NO_RANK - 1
"""Rank of such a document."""


class RetrievalData(NamedTuple):
    """Hold texts by id, and the grade of each judged document per query: 0 is wrong, a higher grade more relevant."""

    queries: Mapping[str, str]
    documents: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]


@spec
class RetrievalDataset(abc.ABC):
    """Declare queries, documents and relevance judgments."""

    @abc.abstractmethod
    def load(self) -> RetrievalData:
        """Read the queries, documents and judgments."""


@spec
class Beir(RetrievalDataset):
    """Declare a folder in the layout of BEIR: corpus.jsonl, queries.jsonl, and qrels/<split>.tsv.

    A judged document that the corpus lacks counts as never found, as in pytrec_eval. A text of null is empty.
    """

    path: str
    """The folder, or its URL."""
    split: str = "test"
    """Split of the judgments."""

    def load(self) -> RetrievalData:
        root = local(self.path).rstrip("/")
        documents = {name: f"{row.get('title') or ''} {row['text']}".strip() for name, row in _rows(root, "corpus")}
        queries = {name: row["text"] for name, row in _rows(root, "queries")}
        return RetrievalData(queries, documents, _qrels(f"{root}/qrels/{self.split}.tsv"))


def _rows(root: str, name: str) -> Iterator[tuple[str, dict]]:
    path = f"{root}/{name}.jsonl"
    for number, line in _lines(path):
        try:
            row = json.loads(line)
            yield str(row["_id"]), {**row, "text": "" if row["text"] is None else str(row["text"])}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path}, line {number}: no object with _id and text ({error!r})") from error


def _qrels(path: str) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for place, (number, line) in enumerate(_lines(path)):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) == 3 and re.fullmatch(r"-?\d+(\.0*)?", parts[2]):
            grades.setdefault(parts[0], {})[parts[1]] = int(parts[2].partition(".")[0])
        elif place or len(parts) != 3:  # the first line may name the columns
            raise UsageError(
                f"{path}, line {number}: expected query, document and grade, a whole number, separated by tabs"
            )
    return grades


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line that is not blank."""
    return ((number, line) for number, line in enumerate(read_utf8(path).split("\n"), 1) if line.strip())


@spec
class InformationRetrieval(Eval):
    """Measure nDCG, recall, MRR and MAP at k over the queries that have a relevant document.

    Ties count against the model. A document with the id of the query is ignored, as in BEIR.

    Metrics:
        ``ndcg<k>``: the gains are the grades, as in trec_eval. ``mrr<k>``: one over the rank of the first relevant
        document, 0 beyond k. ``recall<k>``: share of the relevant documents among the first k. ``map<k>``:
        ``average_precision``.
    """

    data: RetrievalDataset
    """Queries, documents and judgments."""
    ks: tuple[Count, ...] = (10, 100)
    """Numbers k of first documents."""
    query_prefix: str = ""
    """Text before each query, for models that are trained with such a prefix: "query: "."""
    document_prefix: str = ""
    """Text before each document."""
    tower: Output = "text"
    """The model's tower for texts."""
    name: str = "ir"

    def run(self, model: Model) -> dict[str, float]:
        data = self.data.load()
        names, (query, document), grades = judged_pairs(data, self.name)
        queries = embed_texts(model, [self.query_prefix + data.queries[name] for name in names], self.tower)
        documents = [self.document_prefix + text for text in data.documents.values()]
        gallery = embed_texts(model, documents, self.tower)
        places, place_grades = judged_ranks(queries, gallery, (query, document), grades, max(self.ks))
        relevant, metrics = np.bincount(query, grades > 0, len(names)), {}
        for k in self.ks:
            metrics[f"ndcg{k}"] = ndcg(places, place_grades, query, grades, k)
            metrics[f"mrr{k}"] = np.where(places[:, 0] <= k, 1 / places[:, 0], 0)
            metrics[f"recall{k}"] = (places <= k).sum(axis=1) / relevant
            metrics[f"map{k}"] = average_precision(places, k)
        return self.named(metrics)


def judged_pairs(data: RetrievalData, name: str) -> tuple[list[str], IndexPairs, np.ndarray]:
    """Return the queries with a relevant document, (query, document) indices, and the grades of these pairs.

    Grade 0 marks the document with the id of the query, which is ignored. The index of a document that the corpus lacks
    is ``MISSING``. What is missing is reported; a query that is missing is left out.

    Raises UsageError: No query has a relevant document.
    """
    row = {document: number for number, document in enumerate(data.documents)}
    names, pairs, missing = [], [], []
    for query, documents in data.grades.items():
        relevant = {document: grade for document, grade in documents.items() if grade > 0 and document != query}
        if relevant and query not in data.queries:
            missing.append(f"{name}: the judgments name the query '{query}', which is not among the queries")
        elif relevant:
            missing += [
                f"{name}: the judgments of query '{query}' name the document '{document}', which the corpus lacks"
                for document in relevant.keys() - row.keys()
            ]
            ignored = {query: 0} if query in row else {}
            graded = {**relevant, **ignored}.items()
            pairs += [(len(names), row.get(document, MISSING), grade) for document, grade in graded]
            names.append(query)
    record_skipped(missing)
    if missing and hosts.is_main():
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        print(f"{missing[0]}{more}: a missing document counts as never found", file=sys.stderr)
    if not names:
        raise UsageError(f"{name}: no query has a relevant document")
    query, document, grade = np.array(pairs).T
    return names, (query, document), grade


def judged_ranks(
    queries: Queries, gallery: Gallery, pairs: IndexPairs, grades: np.ndarray, k: int
) -> tuple[Ranks, Ranks]:
    """Return ``graded_ranks``. A document that is ``MISSING`` has the rank ``NEVER``, as pytrec_eval counts it."""
    query, document = pairs
    there = document != MISSING
    places, place_grades = graded_ranks(queries, gallery, (query[there], document[there]), grades[there], k)
    more = (0, 0), (0, np.bincount(query[~there]).max(initial=0))
    places, place_grades = np.pad(places, more, constant_values=NO_RANK), np.pad(place_grades, more)
    for row in query[~there]:
        places[row, np.argmax(places[row] == NO_RANK)] = NEVER
    return places, place_grades


def ndcg(
    places: Ranks, place_grades: Ranks, query: Int[np.ndarray, " E"], grades: Int[np.ndarray, " E"], k: int
) -> Float[np.ndarray, " Q"]:
    """Return the discounted gain of the first k, over that of the best order: ``sum grade / log2(1 + place)``.

    Jarvelin & Kekalainen 2002, with linear gains.

    Args:
        places: Ranks of the k best relevant documents or more.
        place_grades: Their grades.
        query: Query of each judged pair.
        grades: Grade of each judged pair.
        k: Number of first documents.
    """
    shown = np.where(places <= k, places, NO_RANK)
    gain = np.where(shown != NO_RANK, place_grades / np.log2(1.0 + shown), 0).sum(axis=1)
    order = np.lexsort((-grades, query))
    counts = np.bincount(query, minlength=len(places))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    ideal = np.where(place < k, grades[order] / np.log2(2.0 + place), 0)
    return gain / np.bincount(query[order], ideal, len(places))
