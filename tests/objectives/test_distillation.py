"""Compare self-distillation with the numbers of DINOv2's released classes (dinov2/loss, run by PyTorch)."""

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import INFERENCE
from jaxrep.objectives.distillation import Dino, Ibot, KoLeo
from jaxrep.schedules import Constant

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
