"""Batches hold texts of one length bucket, each example once per epoch, on all hosts and after resuming."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.length_buckets import ByLength
from jaxrep.data.source import Columns, Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.data.transforms.fields import SelectFields
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.data.transforms.subsets import Take
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.recipe import Data
from jaxrep.step.train_state import initial_state
from jaxrep.training.setup import make_loader
from tests.helpers.harness import QUICK, RECIPE, compiled, set_up, tiny
from tests.helpers.listed_source import Listed, positions
from tests.helpers.tars import write

BUCKETS = ((4, 8), (12, 16))
ORDER = ByLength(seed=3, buckets=BUCKETS)
LENGTHS = np.random.default_rng(0).integers(0, 30, 101)
EXAMPLES = Columns({"text": ["x" * length for length in LENGTHS], "number": np.arange(101)})
TOKENS = Tokenize(Bytes(length=24).load())


def needed(sizes):
    """Return the bucket of texts of these sizes in bytes, and its tokens."""
    bucket = np.searchsorted([size for size, _ in BUCKETS], sizes)
    return bucket, np.array([8, 16, 24])[bucket]


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 200), size=st.integers(1, 40), epochs=st.integers(0, 2**30), seed=st.integers(0, 99))
def test_batch_has_one_bucket_except_at_epoch_ends(length, size, epochs, seed):
    sizes = np.random.default_rng(seed).integers(0, 20, length)
    order = ByLength(seed=seed, buckets=BUCKETS).indices(Listed(length, text=sizes), size)
    start = epochs * length // size * size
    for batch in range(start, start + 3 * length, size):
        batch_positions = positions(batch, size)
        tokens = order.text_length(batch) or 24
        assert (needed(sizes[order(batch_positions)])[1] <= tokens).all()
        assert {order.text_length(batch + row) for row in (0, size // 2, size - 1)} == {order.text_length(batch)}


def test_few_batches_are_longer_than_needed():
    """Allow one longer batch per bucket, for the rest of the previous bucket, and one across two epochs."""
    order = ORDER.indices(Listed(1_000, text=np.arange(1_000) % 30), 16)
    batches = order(positions(0, 4_000)).reshape(-1, 16) % 30
    tokens = np.array([order.text_length(16 * number) or 24 for number in range(len(batches))])
    assert (needed(batches)[1] == tokens[:, None]).all(axis=1).sum() >= len(batches) - 4 * 3
    share = [(tokens == count).mean() for count in (8, 16, 24)]
    np.testing.assert_allclose(share, [5 / 30, 8 / 30, 17 / 30], atol=0.03)  # a batch or two of 62 an epoch
    assert len({tuple(tokens[part : part + 20]) for part in (0, 62, 125)}) == 3  # in another order each epoch


def load(count, *, position=0, **changes):
    loader = Loader(EXAMPLES, EXAMPLES.ordered_indices(ORDER, 8), 8, transform=TOKENS, position=position, **changes)
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


@pytest.fixture(scope="module")
def unbroken():
    return load(14)


def equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        jax.tree.map(np.testing.assert_array_equal, batch, other)


def test_texts_are_padded_to_their_bucket(unbroken):
    assert {batch["text"].shape[1] for batch in unbroken} == {8, 16, 24}
    for batch in unbroken:
        tokens = Tokenize(Bytes(length=batch["text"].shape[1]).load())
        expected = tokens({"text": [EXAMPLES[index]["text"] for index in batch["number"]]})
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values)


@pytest.mark.parametrize("settings", [{"workers": 1}, {"threads": 0}, {"threads": 3}])
def test_buckets_do_not_depend_on_workers_or_resume(unbroken, settings):
    equal(load(9, position=40, **settings), unbroken[5:])


def test_hosts_use_the_same_bucket(unbroken, monkeypatch):
    monkeypatch.setattr("jaxrep.data.loading.loader.MAX_CHUNK_ROWS", 2)  # several reads a batch
    halves = [load(14, rows=slice(start, start + 4)) for start in (0, 4)]
    equal([{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*halves, strict=True)], unbroken)


def test_substitute_has_the_same_bucket():
    order = EXAMPLES.ordered_indices(ORDER, 8)
    for position in range(0, 101, 7):
        (bucket,) = needed(LENGTHS[order(positions(position, 1))])[0]
        tried = [order.substitute(position, attempt) for attempt in range(1, 20)]
        assert set(needed(LENGTHS[tried])[0]) == {bucket} and len(set(tried)) > 5


def test_sizes_come_from_tar_indices_and_through_transforms(tmp_path):
    texts = ["a" * length for length in (3, 40, 11)]
    write(tmp_path / "0.tar", [(f"{number}.txt", text.encode()) for number, text in enumerate(texts)])
    tar = TarShards(shards=str(tmp_path / "0.tar"), image=())
    around = Take(source=SelectFields(source=tar, names={"caption": "text"}), count=2)
    np.testing.assert_array_equal(tar.open().sizes("text"), [3, 40, 11])
    np.testing.assert_array_equal(around.open().sizes("caption"), [3, 40])
    captions = Columns({"text": [("a", "é" * 3), ("b",)], "score": np.array([0.5, np.nan])})
    np.testing.assert_array_equal(captions.sizes("text"), [6, 1])
    order = ByLength(column="score", buckets=((1, 8),)).indices(captions, 1)
    assert sorted(order.text_length(place) for place in (0, 1)) == [0, 8]  # what is not known may be long


def test_mixture_batch_has_one_source_and_one_bucket():
    mixture = Mixture(sources={"a": Pairs(), "b": Pairs()}, weights={"a": 2, "b": 1})
    examples = mixture.open()
    order = examples.ordered_indices(ORDER, 8)
    for batch in range(0, 808, 8):
        indices = order(positions(batch, 8))
        assert len(set(indices // 101)) == 1
        assert (needed(LENGTHS[indices % 101])[1] <= (order.text_length(batch) or 24)).all()
    assert order.source_counts(240) == {"a": 160, "b": 80}


class Pairs(Source):
    def fields(self):
        return {}

    def open(self):
        return EXAMPLES


def test_invalid_buckets():
    for wrong in ((), ((4, 2),), ((4, 8), (4, 16)), ((4, 8), (9, 8))):
        assert "buckets are (bytes, tokens) that both grow" in next(iter(ByLength(buckets=wrong).problems()))
    data = Data(train=Pairs(), batch_size=8, tokenizer=Bytes(length=16), order=ByLength(buckets=((4, 8), (90, 32))))
    assert [*data.problems()] == ["order gives texts 32 tokens, and the tokenizer cuts them to 16"]


def test_shorter_padding_does_not_change_the_step():
    """Check that the step does not depend on the padding of texts."""
    towers = {"image": tiny.Patches(), "text": TextTransformer(width=8, depth=1, heads=2)}
    recipe = RECIPE.replace({"data.order": ByLength(buckets=((10, 4),))}, method=DualEncoder(towers=towers, dim=4))
    setup = set_up(recipe)
    with jax.set_mesh(setup.mesh):
        step = compiled(setup)
        assert set(step.steps) == {4, 6} and step.flops[4].model < step.flops[6].model
        state = jax.jit(lambda: initial_state(recipe, setup.shapes, setup.updater), compiler_options=QUICK)
        loader = make_loader(setup, 0)
        batches = [next(loader) for _ in range(4)]
        loader.close()
        assert {batch["text"].shape[1] for batch in batches} == {4, 6}
        short = next(batch for batch in batches if batch["text"].shape[1] == 4)
        wide = {name: np.pad(short[name], ((0, 0), (0, 2))) for name in ("text", "text/valid")}
        _, found = step(state(), short)
        _, expected = step(state(), short | wide)
    # sums over tokens in another order
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
