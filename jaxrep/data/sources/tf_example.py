"""Read and write records as ``tf.train.Example`` messages without TensorFlow.

A message has named features with lists of bytes, float32 or int64, as in most ArrayRecord and TFRecord files. It is
defined in tensorflow/core/example/feature.proto.
"""

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from jaxrep.storage import utf8

Value = bytes | str | int | float | list[float] | list[str]
_SCHEMA = """
name: "jaxrep/example.proto" package: "jaxrep" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 type: TYPE_BYTES label: LABEL_REPEATED } }
message_type { name: "FloatList" field { name: "value" number: 1 type: TYPE_FLOAT label: LABEL_REPEATED } }
message_type { name: "Int64List" field { name: "value" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".jaxrep.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".jaxrep.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".jaxrep.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 type_name: ".jaxrep.Features.FeatureEntry" label: LABEL_REPEATED }
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: ".jaxrep.Feature" }
  }
}
message_type {
  name: "Example" field { name: "features" number: 1 type_name: ".jaxrep.Features" }
}
"""
"""The messages of feature.proto and example.proto, as protobuf describes them."""


@functools.cache
def _example() -> Any:
    """Build the class of the message."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxrep.Example"))


def decode(content: bytes) -> dict[str, list[Any]]:
    """Decode the features of a record, each a list of bytes, floats or integers. Raises ValueError."""
    try:
        features = _example().FromString(content).features.feature
    except DecodeError as error:
        raise ValueError(f"the record is no tf.train.Example ({error})") from error
    return {
        name: list(getattr(value, value.WhichOneof("kind")).value)
        for name, value in features.items()
        if value.WhichOneof("kind")
    }


def encode(features: Mapping[str, Value]) -> bytes:
    """Encode features, each one value or a list of floats or texts; the same features give the same bytes."""
    example = _example()()
    for name, value in features.items():
        given = value if isinstance(value, list) else [value]
        values = [utf8(x) if isinstance(x, str) else int(x) if isinstance(x, bool) else x for x in given]
        first = values[0] if values else 0.0
        kind = "bytes_list" if isinstance(first, bytes) else "int64_list" if isinstance(first, int) else "float_list"
        getattr(example.features.feature[name], kind).value.extend(values)
    return example.SerializeToString(deterministic=True)
