"""Data sets of TensorFlow Datasets, read at random places and without TensorFlow (extra: tfds)."""

from collections.abc import Mapping
from typing import Any

from jaxrep.data.source import Examples
from jaxrep.data.sources.records import RecordExamples, Records
from jaxrep.errors import BadSample, UsageError, hint
from jaxrep.spec import spec


@spec
class Tfds(Records):
    """A split of a data set that TFDS prepared as ArrayRecord (``tfds.data_source``); other features are metadata."""

    name: str
    """Name of the data set, as coco_captions/2014:1.1.0."""
    split: str = "train"
    """Split or part of one, as train[:10%]."""
    data_dir: str = ""
    """Folder of prepared data sets; empty: that of TFDS."""

    def open(self) -> Examples:
        tfds = _tfds(self.name)
        directory = self.data_dir or None
        try:
            features = tfds.builder(self.name, data_dir=directory).info.features
            pictures = {name: tfds.decode.SkipDecoding() for name in features if name == self.image}
            data = tfds.data_source(self.name, split=self.split, data_dir=directory, decoders=pictures or None)
        except Exception as error:  # TFDS raises errors of many types, with sentences of many lines
            raise UsageError(f"the data set {self.name}, split {self.split}, cannot be opened: {error}") from error
        for name in self.values().values():
            if name not in features:
                raise UsageError(f"{self.name} has no feature {name!r}; {hint(name, features)}")
        examples = TfdsExamples(self, data)
        names = getattr(features[self.label], "names", None) if self.label else None
        examples.classes = {"label": list(names)} if names else {}
        return examples


def _tfds(name: str) -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            f"the data set {name} is read by tensorflow-datasets, which is not installed: pip install 'jaxrep[tfds]'"
        ) from error
    return tensorflow_datasets


class TfdsExamples(RecordExamples):
    """The examples of a data source of TFDS."""

    def __init__(self, source: Tfds, data: Any):
        super().__init__(source, [f"{source.name}/{source.split}"], [len(data)])
        self._data = data

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        try:
            return self._data[row]
        except Exception as error:  # of the reader, or of a feature's decoder
            raise BadSample(f"{self._shards[number]}, record {row}", f"it cannot be read ({error})") from error
