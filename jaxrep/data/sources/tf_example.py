"""Read and write records as ``tf.train.Example`` messages without TensorFlow.

A message has named features with lists of bytes, float32 or int64, as in most ArrayRecord and TFRecord files. It is
defined in tensorflow/core/example/feature.proto.
"""

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

Value = bytes | str | int | float | list[float]
_KINDS = {
    "bytes_list": ("BytesList", "BYTES"),
    "float_list": ("FloatList", "FLOAT"),
    "int64_list": ("Int64List", "INT64"),
}
_Field = descriptor_pb2.FieldDescriptorProto


@functools.cache
def _example() -> Any:
    """Build the class of the message."""
    file = descriptor_pb2.FileDescriptorProto(name="jaxrep/example.proto", package="jaxrep", syntax="proto3")
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, (message, kind)) in enumerate(_KINDS.items(), 1):
        _field(file.message_type.add(name=message), "value", 1, getattr(_Field, f"TYPE_{kind}"), repeated=True)
        _field(feature, name, number, _Field.TYPE_MESSAGE, message).oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    _field(entry, "key", 1, _Field.TYPE_STRING)
    _field(entry, "value", 2, _Field.TYPE_MESSAGE, "Feature")
    _field(features, "feature", 1, _Field.TYPE_MESSAGE, "Features.FeatureEntry", repeated=True)
    _field(file.message_type.add(name="Example"), "features", 1, _Field.TYPE_MESSAGE, "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxrep.Example"))


def _field(message: Any, name: str, number: int, kind: Any, of: str = "", repeated: bool = False) -> Any:
    label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, type=kind, label=label)
    if of:
        field.type_name = f".jaxrep.{of}"
    return field


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
    """Encode features, each one value or a list of floats; the same features give the same bytes."""
    example = _example()()
    for name, value in features.items():
        value = value.encode() if isinstance(value, str) else value
        kind = "bytes_list" if isinstance(value, bytes) else "int64_list" if isinstance(value, int) else "float_list"
        values = getattr(example.features.feature[name], kind).value
        values.extend(value if isinstance(value, list) else [value])
    return example.SerializeToString(deterministic=True)
