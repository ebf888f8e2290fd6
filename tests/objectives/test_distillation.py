"""Compare self-distillation with the numbers of released code, run by PyTorch: DINOv2's dinov2/loss, SwAV's loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.losses.distillation import logits, sinkhorn
from jaxrep.objectives.distillation import Dino, Ibot, KoLeo
from jaxrep.schedules import Constant
from jaxrep.spec import problems

B, LOCAL, E, K, N = 8, 3, 5, 7, 6
WARM = Constant(value=0.05)


def drawn(seed, *shape):
    return np.sin(np.arange(seed, seed + np.prod(shape)) ** 2 * 0.37).reshape(shape).astype(np.float32)


def unit(seed, *shape):
    x = drawn(seed, *shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_dino_equals_released_code():
    """Compare with DINOLoss and Sinkhorn-Knopp on two global and three local crops, summed as in ssl_meta_arch.py.

    The teacher's temperature is 0.05.
    """
    outputs = {"prototypes": unit(1, K, E), "teacher/prototypes": unit(2, K, E), "student": unit(3, B, 2, E)}
    outputs |= {"teacher": unit(4, B, 2, E), "local": unit(5, B, LOCAL, E)}
    loss, _ = Dino(teacher_temperature=WARM)({name: jnp.asarray(x) for name, x in outputs.items()}, {}, INFERENCE)
    np.testing.assert_allclose(loss, 5.8287234, rtol=1e-6)  # both in float32


# Rows 0 and 3 of ``distributed_sinkhorn`` of facebookresearch/swav, main_swav.py, on the first crop.
ASSIGNED = (
    [3.7124710e-09, 1.8324101e-09, 1.7391812e-10, 0.080306023, 0.91949028, 0.00020367268, 2.1785359e-08],
    [0.00052056101, 2.2388051e-12, 2.5374842e-07, 0.97320747, 0.026269833, 1.9461530e-09, 1.8792583e-06],
)


def swav_outputs():
    """SwAV's student is its own teacher."""
    outputs = {"prototypes": unit(1, K, E), "student": unit(3, B, 2, E), "local": unit(5, B, LOCAL, E)}
    outputs |= {"teacher": outputs["student"], "teacher/prototypes": outputs["prototypes"]}
    return {name: jnp.asarray(x) for name, x in outputs.items()}


def test_assignment_equals_released_code():
    rows, table = swav_outputs()["student"][:, 0], swav_outputs()["prototypes"]
    found = jax.nn.softmax(logits(rows, table, 0.05) + sinkhorn(rows, table, 0.05))
    np.testing.assert_allclose(found[jnp.array([0, 3])], ASSIGNED, rtol=5e-5)  # logits up to 20 in float32


def test_swav_equals_released_code():
    """Compare with the loop of ``train``: each crop predicts the assignments of the others, balanced crop by crop."""
    term = Dino(teacher_temperature=WARM, each_crop=True)
    np.testing.assert_allclose(term(swav_outputs(), {}, INFERENCE)[0], 5.9282608, rtol=1e-6)
    together = Dino(teacher_temperature=WARM)(swav_outputs(), {}, INFERENCE)[0]
    assert abs(together - 5.9282608) > 1e-3


@pytest.mark.parametrize("kind", ["others", "all", "same"])
def test_pairs_of_crops_that_meet(kind):
    """Compare with loops over pairs in float64, by plain softmax."""
    outputs = {"prototypes": unit(1, K, E), "teacher/prototypes": unit(2, K, E), "student": unit(3, B, 2, E)}
    outputs |= {"teacher": unit(4, B, 2, E), "local": unit(5, B, LOCAL, E)}
    names = ("student",) if kind == "same" else ("student", "local")
    held = {name: x.astype(float) for name, x in outputs.items()}
    student = np.concatenate([held[name] for name in names], axis=1)
    losses = []
    for t in range(2):
        target = np.exp(held["teacher"][:, t] @ held["teacher/prototypes"].T / 0.05)
        target /= target.sum(-1, keepdims=True)
        for s in range(student.shape[1]):
            if kind == "all" or (s == t) == (kind == "same"):
                z = student[:, s] @ held["prototypes"].T / 0.1
                losses.append(-(target * (z - np.log(np.exp(z).sum(-1, keepdims=True)))).sum(-1).mean())
    term = Dino(pairs=kind, local="" if kind == "same" else "local", iterations=0, teacher_temperature=WARM)
    found, _ = term({name: jnp.asarray(x) for name, x in outputs.items()}, {}, INFERENCE)
    assert len(losses) == {"others": 2 * (LOCAL + 1), "all": 2 * (LOCAL + 2), "same": 2}[kind]
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


def test_wrong_choices_are_named():
    wrong = Dino(center="center", each_crop=True, pairs="same")
    assert [sentence.split(":")[0] for sentence in problems(wrong)] == [
        "Sinkhorn-Knopp makes center = 'center' void",
        "pairs = 'same' leaves out local crops, which no teacher reads",
    ]
    assert "each_crop is about Sinkhorn-Knopp" in problems(Dino(each_crop=True, iterations=0))[0]
    assert problems(Ibot(center="patch_center", iterations=0)) == []
    with pytest.raises(ValueError, match="there is one crop alone: take another crop, or pairs = 'same'"):
        Dino().meetings(1, 1)


def test_ibot_equals_released_code():
    """Compare with iBOTPatchLoss and Sinkhorn-Knopp; crops have different numbers of masked patches, one has none."""
    masked = np.arange(B * 2 * N).reshape(B, 2, N) ** 2 % 5 < 2
    masked[0] = False
    student, teacher = unit(7, B, 2, N, E), unit(8, B, 2, N, E)
    order = np.argsort(~masked, axis=2, kind="stable")  # masked patches first
    present = np.take_along_axis(masked, order, 2)
    rows = [np.take_along_axis(x, order[..., None], 2) * present[..., None] for x in (student, teacher)]
    outputs = {"student/patches": rows[0], "teacher/patches": rows[1]}
    outputs |= {"patch_prototypes": unit(1, K, E), "teacher/patch_prototypes": unit(2, K, E)}
    places = np.where(present, order, -1)
    batch = {"a/masked_index": jnp.asarray(places[:, 0]), "b/masked_index": jnp.asarray(places[:, 1])}
    loss, _ = Ibot(teacher_temperature=WARM)({name: jnp.asarray(x) for name, x in outputs.items()}, batch, INFERENCE)
    np.testing.assert_allclose(loss, 1.1622554, rtol=1e-6)


def test_koleo_equals_released_code():
    """Compare with KoLeoLoss on each global crop."""
    loss, _ = KoLeo()({"student/pooled": jnp.asarray(drawn(6, B, 2, 9))}, {}, INFERENCE)
    np.testing.assert_allclose(loss, -0.2724184, rtol=1e-5)  # logarithms of distances near one
