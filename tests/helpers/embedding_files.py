"""Reads files of embeddings by the libraries of their formats, as columns."""

import numpy as np

from jaxrep.data.sources import tf_example


def columns(path):
    """The columns of one file."""
    match path.suffix:
        case ".npz":
            with np.load(path) as file:
                return dict(file)
        case ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(path)
            return {name: np.array(table.column(name).to_pylist(), _dtype(name)) for name in table.column_names}
    from array_record.python.array_record_module import ArrayRecordReader

    rows = [tf_example.decode(content) for content in ArrayRecordReader(str(path)).read_all()]
    found = {name: [row[name] for row in rows] for name in rows[0]}
    keys = {"key": np.array([key.decode() for (key,) in found["key"]]), "index": np.ravel(found["index"])}
    return {name: np.array(values, np.float32) for name, values in found.items() if name not in keys} | keys


def _dtype(name):
    return {"key": None, "index": np.int64}.get(name, np.float32)


def joined(paths):
    """The columns of all shards, in their order."""
    shards = [columns(path) for path in sorted(paths)]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


def assert_equal(found, expected):
    """The same columns with the same values."""
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert found[name].dtype.kind == np.asarray(column).dtype.kind
        np.testing.assert_array_equal(found[name], column, err_msg=name)
