"""Several evaluations: merged metrics, and conflicts of names."""

from jaxrep.evals.base import format_results, name_conflicts, run_evals
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.spec import problems
from tests.helpers.fake_model import FakeModel, given, pictures, unit
from tests.helpers.harness import RECIPE

MODEL = FakeModel(unit([[1, 0], [0, 1]]), {"a": unit([1, 0]), "b": unit([0, 1])})
DATA = given(image=pictures([0, 1]), label=[0, 1])
ONE = ZeroShot(data=DATA, classes=("a", "b"), temperature=0.01)


def test_run_evals_merges_metrics():
    found = run_evals((ONE, ZeroShot(data=DATA, classes=("b", "a"), temperature=0.01, name="swapped")), MODEL)
    assert (found["zeroshot/top1"], found["swapped/top1"]) == (1, 0)
    assert format_results({"a": 0.25, "bcd": 1.0}) == "a    0.2500\nbcd  1.0000"


def test_equal_names_are_refused_before_training():
    assert not [*name_conflicts((ONE,))]
    wrong = problems(RECIPE.replace(evals=(ONE, ONE)))
    assert wrong == ["2 evaluations have the name 'zeroshot', so their metrics would conflict: give different names"]
