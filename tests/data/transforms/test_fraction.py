"""A share and its rest are the whole, and a smaller share is part of a larger one."""

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.fraction import Fraction
from jaxrep.errors import UsageError
from jaxrep.spec import problems, spec


@spec
class Numbers(Source):
    count: int = 4000

    def fields(self):
        return {"number": Field((), "int32")}

    def open(self):
        return Columns({"number": np.arange(self.count, dtype=np.int32)})


def numbers(**changes):
    return set(Fraction(source=Numbers(), **changes).open().column("number").tolist())


def test_a_share_and_its_rest_are_the_whole():
    half = numbers(share=0.5)
    assert half | numbers(share=0.5, rest=True) == set(range(4000)) and not half & numbers(share=0.5, rest=True)
    assert len(half) == pytest.approx(2000, abs=130)  # four standard deviations
    assert numbers(share=0.1) < half < numbers(share=0.9)
    assert len(numbers(share=0.5, seed=1) & half) == pytest.approx(1000, abs=130)


def test_examples_of_one_class_stay_together():
    taken = np.array(sorted(Fraction(source=Classes(), share=0.5, by="kind").open().column("number")))
    kinds = np.arange(4000) // 8
    assert len(taken) == pytest.approx(2000, abs=4 * 90) and set(kinds[taken]).isdisjoint(
        kinds[sorted(set(range(4000)) - set(taken.tolist()))]
    )


@spec
class Classes(Numbers):
    def fields(self):
        return {**super().fields(), "kind": Field((), "int32")}

    def open(self):
        numbers = np.arange(self.count, dtype=np.int32)
        return Columns({"number": numbers, "kind": numbers // 8})


def test_mistakes_are_told():
    assert problems(Fraction(source=Numbers(), share=1.0))
    with pytest.raises(UsageError, match=r"a share of 0.001 of 3 examples holds none"):
        Fraction(source=Numbers(count=3), share=0.001).open()
