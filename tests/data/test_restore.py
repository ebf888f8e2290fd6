"""Every source, and a mixture of all, resumes at any step with the same examples, crops, substitutes and report."""

import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.images.crop import HostRandomResizedCrop
from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.base import Order, Shuffle
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.source_string import KINDS
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.arrays import ArrayShards
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.sources.text_lines import TextLines
from jaxrep.data.sources.tfds import Tfds
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.data.transforms.fields import SelectFields
from jaxrep.data.transforms.mixture import Mixture, Reweight
from jaxrep.errors import BadSample
from tests.helpers import data_formats as formats

COUNT, BATCH, STEPS = 11, 4, 8  # almost three epochs
BAD = 5
"""The example whose picture cannot be decoded."""
PICTURE = {"image_size": 6, "crop": HostRandomResizedCrop(scale=(0.2, 1.0))}
ORDERS = (Shuffle(seed=1), Windowed(seed=2, shards=2))


def rows(numbers):
    """Yield rows with images of noise, so that each crop differs."""
    for n in numbers:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (12, 12, 3), np.uint8)).save(file, "PNG")
        yield {"image": b"no picture" if n == BAD else file.getvalue(), "text": f"number {n}"}


def sharded(save, folder, ending):
    """Save three files of five, four and two examples; return their pattern."""
    for shard, numbers in enumerate((range(5), range(5, 9), range(9, COUNT))):
        save(folder / f"{shard}.{ending}", list(rows(numbers)))
    return f"{folder}/{{0..2}}.{ending}"


def made(kind, folder):
    """Make the source of a kind, with its files in ``folder``."""
    every = list(rows(range(COUNT)))
    match kind:
        case "tar":
            return TarShards(shards=sharded(formats.tar, folder, "tar"), **PICTURE)
        case "arrayrecord":
            return ArrayRecords(shards=sharded(formats.array_record, folder, "array_record"), **PICTURE)
        case "parquet":
            return ParquetTable(files=sharded(formats.parquet, folder, "parquet"), **PICTURE)
        case "tfds":
            formats.tfds(folder, every)
            return Tfds(name="tiny", data_dir=str(folder), text="caption", **PICTURE)
        case "folder":
            formats.folder(folder / "pictures", every)
            return ImageFolder(path=f"{folder}/pictures", labels_from_folders=False, **PICTURE)
        case "csv":
            formats.table(folder / "x.csv", every)
            return Csv(path=f"{folder}/x.csv", **PICTURE)
        case "lines":
            (folder / "x.txt").write_text("\n".join("" if n == BAD else every[n]["text"] for n in range(COUNT)))
            return TextLines(path=f"{folder}/x.txt")
        case "arrays":
            np.savez(folder / "x.npz", series=np.random.default_rng(0).normal(size=(COUNT, 3)))
            return ArrayShards(shards=f"{folder}/x.npz", shapes={"series": (3,)})
    return mixture(folder)


def mixture(folder):
    """Mix all sources of images, two of them in an inner mixture, with weights that change."""
    names, parts = {"image": "image", "image_id": "image_id"}, {}
    for kind in ("tar", "arrayrecord", "parquet", "tfds", "folder", "csv"):
        (folder / kind).mkdir()
        parts[kind] = SelectFields(source=made(kind, folder / kind), names=names)
    inner = Mixture(sources={kind: parts.pop(kind) for kind in ("tar", "folder")}, weights={"tar": 2, "folder": 1})
    change = Reweight(at=BATCH * STEPS // 2, weights={"csv": 3, "inner": 1, "tfds": 1}, ramp=9)
    return Mixture(sources={**parts, "inner": inner}, changes=(change,))


class Run:
    """Hold the batches of a loader of ``source`` from the first step to the last."""

    def __init__(self, source):
        self.examples = source.open()
        self.transform = Tokenize(Bytes(length=12).load()) if "text" in source.fields() else None
        self.unbroken = {order: self.take(order, STEPS, (0, EMPTY_REPORT)) for order in ORDERS}

    def take(self, order: Order, count: int, at: tuple[int, BadSampleReport], threads: int = 0):
        """Return the next batches, and the loader's position and report after them."""
        position, report = at
        examples = pickle.loads(pickle.dumps(self.examples))  # nothing is left over from other loaders
        report = BadSampleReport.from_json(json.loads(json.dumps(report.to_json())))
        settings = {"seed": 7, "max_bad_fraction": 1.0, "transform": self.transform, "threads": threads}
        loader = Loader(
            examples, examples.ordered_indices(order, BATCH), BATCH, position=position, bad_samples=report, **settings
        )
        try:
            return [next(loader) for _ in range(count)], (loader.position, loader.bad_samples)
        finally:
            loader.close()


KINDS_OF_FILES = sorted(KINDS.keys() - {"openmoji"})  # OpenMoji is in memory, which tests of the loader cover


@pytest.fixture(scope="module", params=[*KINDS_OF_FILES, "arrays", "mixture"])
def run(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXREP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Run(made(request.param, tmp_path_factory.mktemp(request.param)))


@settings(max_examples=8, deadline=None)
@given(order=st.sampled_from(ORDERS), cuts=st.sets(st.integers(0, STEPS), max_size=3), threads=st.integers(0, 2))
def test_every_source_resumes_at_any_step(run, order, cuts, threads):
    expected, end = run.unbroken[order]
    resumed, at = [], (0, EMPTY_REPORT)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), STEPS], strict=True):
        batches, at = run.take(order, stop - start, at, threads)
        resumed += batches
    assert at == end
    for batch, other in zip(resumed, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_crops_differ_between_epochs_and_bad_samples_occur(run):
    """Check that the test above covers crops and bad samples."""
    for batches, (position, report) in run.unbroken.values():
        assert position == report.rows == BATCH * STEPS
        assert report.bad_rows < BATCH * STEPS / 4 and (report.bad_rows > 0 or "series" in batches[0])
        if "image" in batches[0]:
            ids, images = (np.concatenate([batch[name] for batch in batches]) for name in ("image_id", "image"))
            assert len(np.unique(ids)) < len(np.unique(images, axis=0))


def test_gather_equals_single_draws(run):
    good = [index for index in range(len(run.examples)) if can_be_read(run.examples, index)]
    indices, keys = np.array(good)[[0, -1, 2, -1]], np.arange(4, dtype=np.uint64)
    batch, alone = run.examples.gather(indices, keys), run.examples.gather(indices)
    for row in range(4):
        drawn = run.examples.gather(indices[[row]], keys[[row]])
        for columns, example in (
            (batch, {name: x[0] for name, x in drawn.items()}),
            (alone, run.examples[indices[row]]),
        ):
            assert columns.keys() == example.keys()
            for name, value in example.items():
                np.testing.assert_array_equal(columns[name][row], value, err_msg=name)


def can_be_read(examples, index):
    try:
        return bool(examples[index])
    except BadSample:
        return False
