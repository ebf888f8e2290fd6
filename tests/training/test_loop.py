"""What a run says and leaves besides its checkpoints: a trace, and a word on a metric that nobody measures."""

import jax

from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.recipe import Profile
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.spec import problems
from jaxrep.training.loop import train
from tests.helpers.harness import RECIPE, logged, tiny


def test_profile_is_traced_and_unmeasured_best_metric_warns(tmp_path):
    recipe = RECIPE.replace(
        {"checkpoint.best": "retrieval/image_to_text/r2"},
        examples=6 * 8,
        evals=(Retrieval(data=tiny.Named()),),
        profile=Profile(after=2, steps=2),
    )
    with logged() as messages:
        assert train(recipe, tmp_path / "run", devices=jax.devices()[:1]) is ExitCode.DONE
    assert any(
        "checkpoint.best is 'retrieval/image_to_text/r2', which no evaluation measures" in text for text in messages
    )
    (trace,) = (tmp_path / "run" / "profile").rglob("perfetto_trace.json.gz")
    assert trace.stat().st_size > 1000


def test_a_best_without_evaluations_is_a_mistake():
    (found,) = problems(RECIPE.replace({"checkpoint.best": "retrieval/r1"}))
    assert "checkpoint.best is 'retrieval/r1', and there are no evals" in found
