"""The center of a teacher's logits: DINO's released update, rows that are absent, and its place in a run."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE
from jaxrep.methods.teacher_center import TeacherCenter
from jaxrep.objectives.distillation import Dino
from jaxrep.schedules import Constant
from tests.objectives.test_distillation import LOCAL, B, E, K, unit

# ``DINOLoss`` of facebookresearch/dino, run by PyTorch: loss and center of three steps, teacher temperature 0.05.
RELEASED = (
    (5.811966, [-0.0019634289, -0.015952455, 0.007925462, 0.0076318607, -0.0056563378, 0.0073974538, 0.013493708]),
    (7.2523255, [-0.02582792, -0.021581676, 0.0024856138, 0.011615483, 0.0019273716, 0.026152154, 0.00076013245]),
    (7.0008059, [-0.015222164, -0.016933827, -5.191518e-05, 0.0035277414, 0.012217056, 0.026785348, 0.00067275256]),
)


def center(**changes) -> Any:
    return TeacherCenter(**changes).build(nnx.Rngs(0), inputs=K)


def test_center_and_loss_equal_released_code():
    part, term = center(), Dino(center="center", iterations=0, teacher_temperature=Constant(value=0.05))
    fixed = {"prototypes": unit(1, K, E), "teacher/prototypes": unit(2, K, E)}
    fixed |= {"student": unit(3, B, 2, E), "local": unit(5, B, LOCAL, E)}
    for step, (loss, expected) in enumerate(RELEASED):
        outputs = {**fixed, "teacher": unit(4 + 100 * step, B, 2, E), "center": part()}
        outputs = {name: jnp.asarray(x) for name, x in outputs.items()}
        np.testing.assert_allclose(term(outputs, {}, INFERENCE)[0], loss, rtol=1e-6)  # both in float32
        part.value.set_value(part.update(part, outputs, {}, INFERENCE)["value"])
        # The mean of logits near 1 cancels to hundredths.
        np.testing.assert_allclose(part(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_center_is_the_mean_over_the_rows_that_are_there(momentum):
    part = center(of="teacher/patches", table="patch_prototypes", momentum=momentum)
    part.value.set_value(jnp.arange(K, dtype=jnp.float32))
    rows, table, present = unit(1, B, 2, 3, E), unit(2, K, E), np.arange(B * 6).reshape(B, 2, 3) % 4 == 1
    outputs = {"teacher/patches": rows, "teacher/patch_prototypes": table, "teacher/patches/present": present}
    outputs = {name: jnp.asarray(x) for name, x in outputs.items()}
    mean = (rows.astype(float)[present] @ table.astype(float).T).mean(0)
    found = part.update(part, outputs, {}, INFERENCE)["value"]
    np.testing.assert_allclose(found, momentum * np.arange(K) + (1 - momentum) * mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="a center reads the output 'teacher/patches', which is missing"):
        part.update(part, {"teacher/patch_prototypes": jnp.asarray(table)}, {}, INFERENCE)
    none = {**outputs, "teacher/patches/present": jnp.zeros_like(outputs["teacher/patches/present"])}
    np.testing.assert_array_equal(part.update(part, none, {}, INFERENCE)["value"], part())
