"""Texts, labels and ids are read from bytes as they are, or it is said why not."""

import pickle

import numpy as np
import pytest

from jaxrep.data import values
from jaxrep.errors import BadSample


def test_texts_are_utf_8_and_labels_are_numbers():
    assert values.decode_text(" a café\r\n".encode()) == "a café"
    assert values.decode_label(b" 12\n") == 12 and values.decode_label(b"2", classes=3).dtype == np.int32
    with pytest.raises(ValueError, match=r"not UTF-8 .byte 3 is 0xe9"):
        values.decode_text(" caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"the text is empty"):
        values.decode_text(b" \n")
    with pytest.raises(ValueError, match=r"the text has 10,000,000 bytes, more than the 1,048,576 that are read"):
        values.decode_text(b"x" * 10_000_000)
    for wrong in (b"", b"-1", b"1.5", b"cat", "٣".encode(), b"3", b"99999999999"):
        with pytest.raises(ValueError, match=r"whole number below 3, not"):
            values.decode_label(wrong, classes=3)
    with pytest.raises(ValueError, match=r"of 31 bits"):
        values.decode_label(b"2147483648")


def test_ids_are_31_bits_of_the_content():
    ids = [values.content_id(str(i).encode()) for i in range(1000)]
    assert ids == [values.content_id(str(i).encode()) for i in range(1000)]
    assert len(set(ids)) == 1000
    assert min(ids) >= 0 and max(ids) > 2**30 and ids[0].dtype == np.int32
    assert values.text_id(b"a cat\n") == values.text_id(b"a cat") != values.text_id(b"a dog")


def test_a_bad_sample_reaches_other_processes_whole():
    error = pickle.loads(pickle.dumps(BadSample("0.tar, member a.jpg", "it is empty")))
    assert (error.place, error.reason, str(error)) == (
        "0.tar, member a.jpg",
        "it is empty",
        "0.tar, member a.jpg: it is empty",
    )
