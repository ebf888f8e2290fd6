"""Texts, labels and ids are decoded from bytes; errors name the reason."""

import pickle

import numpy as np
import pytest

from jaxrep.data._util.hashing import content_id, text_id
from jaxrep.data.decode import decode_label, decode_text
from jaxrep.errors import BadSample


def test_decode_text_and_label():
    assert decode_text(" a café\r\n".encode()) == "a café"
    assert decode_label(b" 12\n") == 12 and decode_label(b"2", classes=3).dtype == np.int32
    assert decode_label(b"3.0") == 3  # of a column of floats
    with pytest.raises(ValueError, match=r"not UTF-8 .byte 3 is 0xe9"):
        decode_text(" caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"the text is empty"):
        decode_text(b" \n")
    with pytest.raises(ValueError, match=r"the text has 10,000,000 bytes, more than the 1,048,576 that are read"):
        decode_text(b"x" * 10_000_000)
    for wrong in (b"", b"-1", b"1.5", b".0", b"1.0.0", b"3.0", b"cat", "٣".encode(), b"3", b"99999999999"):
        with pytest.raises(ValueError, match=r"whole number below 3, not"):
            decode_label(wrong, classes=3)
    with pytest.raises(ValueError, match=r"of 31 bits"):
        decode_label(b"2147483648")


def test_content_id_has_31_bits():
    ids = [content_id(str(i).encode()) for i in range(1000)]
    assert ids == [content_id(str(i).encode()) for i in range(1000)]
    assert len(set(ids)) == 1000
    assert min(ids) >= 0 and max(ids) > 2**30 and ids[0].dtype == np.int32
    assert text_id(b"a cat\n") == text_id(b"a cat") != text_id(b"a dog")


def test_bad_sample_pickles():
    error = pickle.loads(pickle.dumps(BadSample("0.tar, member a.jpg", "it is empty")))
    assert (error.place, error.reason, str(error)) == (
        "0.tar, member a.jpg",
        "it is empty",
        "0.tar, member a.jpg: it is empty",
    )
