"""Splitting texts into fields, and dropping modalities."""

import json

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.sources.karpathy import Karpathy
from jaxrep.data.transforms.modalities import DropModalities, SplitCaptions
from jaxrep.spec import problems, spec

N = 3000


@spec
class Things(Source):
    """An image and its name in two languages."""

    def fields(self):
        text = {"text": Field((2,), "str"), "text_id": Field((2,), "int32")}
        return {"image": Field((2, 2, 3), "uint8"), **text}

    def open(self):
        image = np.random.default_rng(0).integers(1, 256, (N, 2, 2, 3), dtype=np.uint8)
        ids = np.stack([np.arange(N), np.arange(N) + N], 1).astype(np.int32)
        return Columns({"image": image, "text": [(f"a{i}", f"b{i}") for i in range(N)], "text_id": ids})


SPLIT = SplitCaptions(source=Things(), names=("english", "german"))
DROPPED = DropModalities(source=SPLIT, names=("image", "english", "german"), share=0.3)


def test_split_captions_gives_one_field_per_text():
    examples = SPLIT.open()
    rows = examples.gather(np.array([4, 2]))
    assert rows.keys() == SPLIT.fields().keys() == {"image", "english", "german", "english_id", "german_id"}
    assert rows["english"] == ["a4", "a2"] and rows["german"] == ["b4", "b2"]
    np.testing.assert_array_equal(rows["german_id"], [N + 4, N + 2])
    assert examples.column("german")[7] == "b7" and examples.column("english_id")[7] == 7
    assert problems(SplitCaptions(source=Things(), names=("one",)))


def test_drop_modalities_drops_the_share_and_repeats():
    examples, whole = DROPPED.open(), SPLIT.open()
    every = np.arange(N)
    rows, there = examples.gather(every), np.stack([examples.column(f"{name}/present") for name in DROPPED.names])
    # Standard deviation of a share: 0.008; of a third of it: 0.006.
    assert np.mean(~there.all(axis=0)) == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(1 - there.mean(axis=1), 0.1, atol=0.025)
    assert (there.sum(axis=0) >= 2).all()
    for name, here in zip(DROPPED.names, there, strict=True):
        np.testing.assert_array_equal(rows[f"{name}/present"], here)
        np.testing.assert_array_equal(examples.gather(every[::-1])[f"{name}/present"], here[::-1])
    values = whole.gather(every)
    np.testing.assert_array_equal(rows["image"], values["image"] * there[0][:, None, None, None])
    assert rows["german"] == [text if here else "" for text, here in zip(values["german"], there[2], strict=True)]
    assert examples.column("german") == rows["german"]
    other = DropModalities(source=SPLIT, names=DROPPED.names, share=0.3, seed=1).open()
    assert (other.column("image/present") != there[0]).any()
    assert DropModalities(source=SPLIT, names=DROPPED.names, share=0.0).open().column("german/present").all()


def test_problems_are_reported():
    assert "at least two modalities" in problems(DropModalities(source=SPLIT, names=("image",), share=0.3))[0]
    assert problems(DropModalities(source=SPLIT, names=("image", "german"), share=1.5))
    assert "no field 'sound'" in problems(DropModalities(source=SPLIT, names=("image", "sound"), share=0.5))[0]


def test_column_of_split_captions_marks_examples_without_them(tmp_path):
    rows = [
        {"filename": f"{n}.png", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}][:n]} for n in (2, 1, 0)
    ]
    (tmp_path / "k.json").write_text(json.dumps({"images": rows}))
    source = Karpathy(path=f"{tmp_path}/k.json", images=str(tmp_path), captions_per_image=2)
    examples = SplitCaptions(source=source, names=("a", "b")).open()
    assert examples.column("a") == ["one", "", ""] and examples.column("b") == ["two", "", ""]
