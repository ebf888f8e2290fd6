"""The second stage of validation: mistakes that show in names and shapes are told before a device or a file is
touched."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import pytest

from jaxrep.batch import Field
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError
from jaxrep.evals.base import Eval
from jaxrep.evals.classification.classification import Classification
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitBias
from jaxrep.objectives.base import Term
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.objectives.wrappers import EachView, Matryoshka
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import Freeze
from jaxrep.recipe import Pretrained
from jaxrep.spec import problems, spec
from jaxrep.step.shapes import model_summary, trace_shapes, validate
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomSquareCrop
from tests.helpers.harness import RECIPE, logged, tiny, traced


def told(recipe) -> str:
    with pytest.raises(UsageError) as error:
        traced(recipe)
    return str(error.value)


def test_what_a_recipe_builds_and_emits_is_known_by_name_and_shape():
    found = traced(RECIPE.replace(views=(RandomSquareCrop("image", size=6),)))
    assert {name: leaf.shape for name, leaf in found.arrays.items()} == {
        "image/kernel": (27, 6),
        "image_head/kernel": (6, 4),
        "scale/log": (),
        "text/embedding": (16, 6),
        "text_head/kernel": (6, 4),
    }
    emitted = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in found.outputs.items()}
    assert emitted == {
        "image": ((8, 4), "float32"),
        "image/pooled": ((8, 6), "float32"),
        "image/tokens": ((8, 4, 6), "float32"),
        "text": ((8, 4), "float32"),
        "text/pooled": ((8, 6), "float32"),
        "scale": ((), "float32"),
    }
    assert (found.batch["image"].shape, str(found.batch["image"].dtype)) == ((8, 8, 8, 3), "uint8")
    assert found.fields["image"] == Field((6, 6, 3), "float32")
    assert found.fields["text"] == Field((6,), "int32", 16)
    assert found.structure.trainable == found.arrays.keys()


def test_a_term_that_reads_what_nobody_emits_is_told_the_names_that_exist():
    assert told(RECIPE.replace(objective={"pair": Contrastive("image", "txt")})) == (
        "objective.pair reads 'txt', which DualEncoder does not emit: did you mean text? "
        "there are: image, image/pooled, image/tokens, scale, text, text/pooled"
    )
    assert told(RECIPE.replace(objective={"pair": Sigmoid("image", "text")})).startswith(
        "objective.pair reads 'bias', which DualEncoder does not emit: "
    )


def test_a_term_that_needs_a_field_that_the_batch_lacks_is_told():
    pair = Contrastive("image", "text", duplicates="ignore", ids=("image_ids",))
    assert told(RECIPE.replace(objective={"pair": pair})) == (
        "objective.pair needs the field 'image_ids' of the batch: did you mean image_id? "
        "there are: image, image_id, label, position, text, text/valid, text_id"
    )


@spec
class PerRow(Term):
    """Forgets to take the mean."""

    reads: ClassVar[tuple[str, ...]] = ("image",)  # pyright: ignore[reportIncompatibleMethodOverride]

    def __call__(self, outputs, batch, ctx):
        return jnp.sum(outputs["image"] ** 2, axis=1), {}


def test_a_term_that_is_not_a_scalar_is_told():
    assert (
        told(RECIPE.replace(objective={"rows": PerRow()})) == "objective.rows must be a scalar, and its shape is (8,)"
    )


@spec
class Reads(Eval):
    """Asks for an output."""

    reads: ClassVar[tuple[str, ...]] = ("txt",)  # pyright: ignore[reportIncompatibleMethodOverride]

    def run(self, model):
        return {}


def test_an_evaluation_that_reads_what_nobody_emits_is_told_before_the_training_not_after_it():
    assert told(RECIPE.replace(evals=(Reads(),))).startswith(
        "evals.0 reads 'txt', which DualEncoder does not emit: did you mean text? "
    )
    assert Retrieval(data=tiny.Named()).reads == ZeroShot(data=tiny.Named()).reads == ("image", "text")
    assert Classification(data=tiny.Named(), dims=(2, 4)).reads == ("image", "classes/2", "classes/4")
    assert Classification(data=tiny.Named()).reads == ("image", "classes")


def test_a_view_of_a_field_that_the_batch_lacks_is_told():
    assert told(RECIPE.replace(views=(RandomSquareCrop("imge", size=6),))).startswith(
        "views: RandomSquareCrop reads the field 'imge', which the batch lacks: did you mean image? there are: "
    )


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("method.dim", 0, "method.dim: expected a number of at least 1, got 0"),
        ("seed", -1, "seed: expected a number of at least 0"),
        ("seed", 2**32, "seed: expected a number of at least 0 and of at most 4294967295, got 4294967296"),
        ("examples", 7, "examples=7 is less than one batch of 8: no step would be made"),
        ("max_skipped_steps", 0, "max_skipped_steps: expected a number of at least 1, got 0"),
        ("optimizer.eps", -1.0, "optimizer.eps: expected a number of at least 0, got -1.0"),
        ("schedule.peak", math.nan, "schedule.peak: expected float, got float nan"),
        ("evals.0.every_steps", -1, "evals.0.every_steps: expected a number of at least 0, got -1"),
    ],
)
def test_a_number_out_of_range_is_one_sentence(path, value, words):
    recipe = RECIPE.replace(evals=(Retrieval(data=tiny.Named()),)).replace({path: value})
    assert [sentence[: len(words)] for sentence in problems(recipe)] == [words]


def test_mistakes_of_shape_inside_a_part_become_sentences_with_their_place():
    wide = Matryoshka(Contrastive("image", "text"), (2, 64))
    assert told(RECIPE.replace(objective={"cut": wide})) == (
        "objective.cut: Matryoshka cuts 'image' to 64 numbers, and it has 4"
    )
    assert told(RECIPE.replace(views=(RandomSquareCrop("image", size=9),))).startswith(
        "views: a square crop of 9 pixels does not fit 'image' of (8, 8)"
    )
    sound = DualEncoder(towers={"sound": tiny.Patches(), "text": tiny.Ids()}, dim=4)
    assert told(RECIPE.replace(method=sound)).startswith("method: tower 'sound' reads the field 'sound'")
    swapped = DualEncoder(
        towers={"image": tiny.Patches(), "text_id": TextTransformer(width=8, depth=1, heads=2)}, dim=4
    )
    assert told(RECIPE.replace(method=swapped)).startswith(
        "method: text_id: a text encoder reads token ids of shape (L,)"
    )


PAIR = Sigmoid("image", "text")
THREE = {"views": (CopyField("image", out="image", count=3),)}


@pytest.mark.parametrize(
    ("bias", "batch", "changes", "needed"),
    [
        (-10.0, 8, {}, "-1.95"),
        (-10.0, 256, {}, "-5.54"),
        (-5.5, 256, {}, None),
        (0.0, 256, {}, "-5.54"),
        (-3.9, 8, {}, None),
        (0.1, 8, {}, "-1.95"),
        (-10.0, 32_768, {}, None),  # the paper's
        (-10.0, 1, {}, None),  # without a negative
        (-10.0, 8, {"init": {"bias": Pretrained("timm/somewhere")}}, None),
        (-1.0, 8, {**THREE, "objective.pair": EachView(PAIR, field="image")}, None),
        (-10.0, 8, {**THREE, "objective.pair": EachView(PAIR, field="image")}, "-1.95"),
    ],
)
def test_a_bias_far_from_a_random_guess_is_warned_of(bias, batch, changes, needed):
    method = dataclasses.replace(RECIPE.method, bias=LogitBias(init=bias))
    changes = {"data.batch_size": batch, "method": method, "objective": {"pair": PAIR}, "examples": batch, **changes}
    recipe = RECIPE.replace(changes)
    with logged() as messages:
        validate(recipe)
    guess = f"method.bias.init is {bias:g}: among the {batch} rows that objective.pair compares a random guess needs "
    assert messages == ([f"{guess}{needed}"] if needed else [])


def test_heads_that_do_not_divide_the_width_are_a_static_mistake():
    vit = ViT(width=16, depth=1, heads=3)
    recipe = RECIPE.replace(method=DualEncoder(towers={"image": vit, "text": tiny.Ids()}, dim=4))
    assert problems(recipe) == [
        "method.towers.image: heads = 3 do not divide width = 16: take a number of heads that does"
    ]


def test_static_mistakes_of_a_recipe_are_all_told():
    recipe = RECIPE.replace({"data.batch_size": 10}, microbatch_size=4, examples=80, epochs=1.0, objective={})
    assert problems(recipe) == [
        "the length is examples or epochs, one of them: got examples=80, epochs=1.0",
        "objective has no term: nothing would be learned",
        "microbatch_size 4 does not divide the batch of 10: take a divisor, or 0 for none",
    ]


def test_a_rule_that_names_no_parameter_is_told():
    recipe = RECIPE.replace(optimizer=AdamW(rules=(Freeze(path="imge/**"),)))
    with pytest.raises(UsageError, match=r"optimizer: pattern 'imge/\*\*' names no parameter; the nearest are image/"):
        traced(recipe).updater(recipe)


def test_nothing_is_computed():
    """Shapes alone: a batch that no memory holds is traced all the same."""
    fields = {"position": Field((2,), "uint32"), "image": Field((8, 8, 3), "uint8"), "text": Field((6,), "int32", 16)}
    found = trace_shapes(RECIPE.replace({"data.batch_size": 2**33}), fields)
    assert found.outputs["image"] == jax.ShapeDtypeStruct((2**33, 4), jnp.float32)


def test_what_is_frozen_is_not_differentiated():
    free, frozen = (
        model_summary(RECIPE.replace(optimizer=AdamW(rules=rules))) for rules in ((), (Freeze(path="image/**"),))
    )
    assert frozen["parameters"] == free["parameters"]
    features, kernel = 2 * 4 * 6, 2 * 4 * 48 * 6  # gradients: through the head, and of the one matrix, of four patches
    assert free["step_flops_per_example"] - frozen["step_flops_per_example"] == features + kernel
