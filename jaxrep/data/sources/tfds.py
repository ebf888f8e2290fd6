"""Read data sets of TensorFlow Datasets at random places and without TensorFlow (extra: tfds)."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrep.data.source import Examples
from jaxrep.data.sources.records import RecordExamples, Records
from jaxrep.errors import UsageError
from jaxrep.extras import import_extra
from jaxrep.spec import spec


@spec
class Tfds(Records):
    """Read a split that TFDS prepared as ArrayRecord (``tfds.data_source``); other features are metadata."""

    name: str
    """Name of the data set, such as coco_captions/2014:1.1.0."""
    split: str = "train"
    """Split or part of a split, such as train[:10%]."""
    data_dir: str = ""
    """Folder of prepared data sets; empty: the default of TFDS."""

    def open(self) -> Examples:
        tfds = import_extra("tensorflow_datasets", "tfds")
        directory = self.data_dir or None
        try:
            features = tfds.builder(self.name, data_dir=directory).info.features
            images = {name: tfds.decode.SkipDecoding() for name in features if name == self.image}
            data = tfds.data_source(self.name, split=self.split, data_dir=directory, decoders=images or None)
        except Exception as error:  # TFDS raises errors of many types and many lines
            place = f" in {directory}" if directory else ""
            reason = f"cannot be opened{place}: " + str(error).strip().partition("\n")[0]
            raise UsageError(f"the data set {self.name}, split {self.split}, {reason}") from error
        self.check(self.name, features)
        examples = TfdsExamples(self, data)
        names = getattr(features[self.label], "names", None) if self.label else None
        examples.classes = {"label": list(names)} if names else {}
        return examples


class TfdsExamples(RecordExamples):
    """Read the examples of a TFDS data source."""

    def __init__(self, source: Tfds, data: Any):
        super().__init__(source, [f"{source.name}/{source.split}"], [len(data)])
        self._data = data

    def shard_facts(self) -> Sequence[Any]:
        return [0]  # TFDS checks its files by the version of the data set

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        return self._data[row]
