"""Terms of self-distillation give the numbers of DINOv2's released classes (dinov2/loss, run by PyTorch) on inputs that
can be written down."""

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


def test_class_tokens_of_two_global_and_three_local_crops():
    """DINOLoss with Sinkhorn-Knopp, of the global crops by the other's teacher and of the local ones by both, as
    ssl_meta_arch.py adds them up; a teacher's temperature of 0.05."""
    outputs = {"prototypes": unit(1, K, E), "teacher/prototypes": unit(2, K, E), "student": unit(3, B, 2, E)}
    outputs |= {"teacher": unit(4, B, 2, E), "local": unit(5, B, LOCAL, E)}
    found, _ = Dino(teacher_temperature=WARM)({name: jnp.asarray(x) for name, x in outputs.items()}, {}, INFERENCE)
    np.testing.assert_allclose(found, 5.8287234, rtol=1e-6)  # both in float32


def test_hidden_patches():
    """iBOTPatchLoss with Sinkhorn-Knopp over all hidden patches, of which crops have different numbers, one none."""
    hidden = np.arange(B * 2 * N).reshape(B, 2, N) ** 2 % 5 < 2
    hidden[0] = False
    student, teacher = unit(7, B, 2, N, E), unit(8, B, 2, N, E)
    order = np.argsort(~hidden, axis=2, kind="stable")  # the hidden ones first
    here = np.take_along_axis(hidden, order, 2)
    rows = [np.take_along_axis(x, order[..., None], 2) * here[..., None] for x in (student, teacher)]
    outputs = {"student/patches": rows[0], "teacher/patches": rows[1]}
    outputs |= {"patch_prototypes": unit(1, K, E), "teacher/patch_prototypes": unit(2, K, E)}
    places = np.where(here, order, -1)
    batch = {"a/masked_index": jnp.asarray(places[:, 0]), "b/masked_index": jnp.asarray(places[:, 1])}
    found, _ = Ibot(teacher_temperature=WARM)({name: jnp.asarray(x) for name, x in outputs.items()}, batch, INFERENCE)
    np.testing.assert_allclose(found, 1.1622554, rtol=1e-6)


def test_the_spread_of_features():
    """KoLeoLoss, of each global crop by itself."""
    found, _ = KoLeo()({"student/pooled": jnp.asarray(drawn(6, B, 2, 9))}, {}, INFERENCE)
    np.testing.assert_allclose(found, -0.2724184, rtol=1e-5)  # logarithms of distances near one
