"""A folder that img2dataset wrote trains as it is: filtered by its tables, with captions and numbers from JSON."""

import json
import re

import numpy as np
import pytest

import jaxrep
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.sources.numbers import Numbers
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.data.transforms.subsets import Filter, Where
from jaxrep.data.transforms.uids import KeepUids
from jaxrep.errors import UsageError
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.training.loop import train
from tests.helpers import img2dataset
from tests.helpers.harness import LOADED, RECIPE
from tests.helpers.opened_files import opened_files
from tests.helpers.tars import npy

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def pool(tmp_path):
    """Three shards of eight pairs with an array each; a failed download, a shard without a table; a pair damaged."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for number, start in enumerate((0, 8, 16)):
        rows = [img2dataset.row(n, number) for n in range(start, start + 8)]
        arrays = {f"{row['key']}.npy": npy(np.full(3, start + n, np.float16)) for n, row in enumerate(rows)}
        if number == 1:
            arrays[f"{rows[7]['key']}.npy"] = npy(np.zeros(4))
        failures = [img2dataset.failed(24, number)] if number == 0 else []
        img2dataset.shard(folder, number, [*rows, *failures], table=() if number == 2 else None, more=arrays)
    return TarShards(
        shards=f"{folder}/*.tar",
        image_size=8,
        text="json:caption",
        captions=("json:captions",),
        numbers={"score": "json:similarity", "vector": Numbers(at="npy", shape=(3,))},
    )


def recipe(source):
    drawn = SampleCaption(source=source, probabilities={"text": 1, "captions": 1})
    return RECIPE.replace(
        {"data.train": drawn, "data.batch_size": 8, "data.max_bad_fraction": 0.2, "log.embedding_metrics": False},
        objective={"contrastive": Contrastive("image", "text", weights="score")},
        examples=24,
    )


def test_folder_trains(pool, tmp_path):
    kept = KeepUids(source=pool, path=str(tmp_path / "uids.npy"))
    np.save(kept.path, img2dataset.uid_array(*range(4, 24)))
    filtered = Filter(source=kept, where=(Where(column="similarity", at_least=0.5),))
    assert train(recipe(filtered), tmp_path / "run", LOADED) == 0
    assert jaxrep.open_run(tmp_path / "run").metrics()[-1]["step"] == 3
    report = json.loads((tmp_path / "run/bad_samples.json").read_text())
    assert report["all"] == 24 and 0 < report["bad"] < 5  # 1 of 16 examples, of another shape
    (shard,) = report["shards"]
    assert (
        shard.endswith("00001.tar") and "member 000010015.npy: its numbers have the shape (4,)" in report["examples"][0]
    )


def test_batches_have_what_the_files_have(pool):
    """Every text is a caption of the picture beside it, and every number that of its pair, in each epoch."""
    filtered = Filter(source=pool, where=(Where(column="similarity", at_most=0.9),))
    filtered.open()  # makes the index
    with opened_files() as opened:
        examples = recipe(filtered).data.train.open()
    assert {path[-9:] for path in opened if path.endswith(".tar")} == {"00002.tar"}  # the others have tables
    order = Shuffle().indices(examples, 5)
    loader = Loader(examples, order, 5, transform=lambda columns: {**columns, "n": numbers_in(columns["text"])})
    seen = set()
    for _ in range(12):
        batch = next(loader)
        numbers = batch["image"][:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(batch["n"], numbers)
        np.testing.assert_array_equal(batch["score"], numbers / np.float32(16))
        np.testing.assert_array_equal(batch["vector"], np.repeat(numbers[:, None], 3, 1))
        seen |= set(zip(numbers.tolist(), batch["text_id"].tolist(), strict=True))
    loader.close()
    assert {number for number, _ in seen} == set(range(15)) and len(seen) > 20  # of 30 pairs of picture and text


def numbers_in(texts):
    """Return the numbers in captions, which are `number N` or `a picture of N`."""
    found = [re.fullmatch(r"(?:number|a picture of) (\d+)", text) for text in texts]
    return np.array([int(match[1]) for match in found if match])


def test_undrawn_lists_of_captions_are_refused(pool, tmp_path):
    plain = RECIPE.replace({"data.train": TarShards(shards=pool.shards, image_size=8, text="json:captions")})
    with pytest.raises(
        UsageError, match=r"'text' holds several captions of an example \(2, as 'number .*SampleCaption"
    ):
        train(plain.replace({"data.batch_size": 8}, examples=8), tmp_path / "run", LOADED)
