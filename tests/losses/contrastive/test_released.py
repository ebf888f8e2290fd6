"""Compare losses with what the authors' released functions return, or, where noted, with their equations in NumPy.

The arrays were made with PyTorch 2 in float64 by the functions of the named files, from the rows that are drawn here.
"""

import jax
import numpy as np

from jaxrep.losses.contrastive import info_nce
from jaxrep.losses.geometry import covariance_penalty, mean_square, variance_hinge
from jaxrep.losses.pairwise.pairs import PairOptions
from tests.helpers import loss_oracle as oracle

B, D = 5, 3
A, KEYS, QUEUE = (oracle.rows(seed, count, D) for seed, count in ((0, B), (1, B), (2, 7)))
LABELS = np.array([0, 1, 1, 2, 0], np.int32)
CLOSE = dict(rtol=2e-5, atol=2e-5)  # logits of 10 and gradients of up to 4, in float32


def check(loss, arrays, value, gradients):
    got = jax.jit(jax.value_and_grad(loss, tuple(range(len(arrays)))))(*arrays)
    np.testing.assert_allclose(got[0], value, **CLOSE)
    for ours, theirs in zip(got[1], gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


SUPCON = np.array([
    [[2.75711872, -1.58943478, 3.74246195], [3.02153716, 1.84038989, -0.35063664]],
    [[0.98265554, -1.94823099, 1.25740374], [-2.05227919, 1.51331856, 0.62691696]],
    [[1.98012597, 1.50112836, -0.42189317], [-2.22425402, 1.53760011, 0.45985063]],
    [[-2.90070254, -0.35039941, -3.39349365], [3.22789263, 0.89792979, 2.68904334]],
    [[-2.6158957, -1.29997583, -2.02032031], [-2.62184212, -1.13204526, -1.92629398]],
])  # fmt: skip
UNLABELED = np.array([
    [[0.44457549, -3.48776388, 2.11913851], [1.04179289, 1.96623183, -3.14379076]],
    [[2.60768972, -1.84621037, 0.75904468], [-2.23826465, 4.21985461, -0.40757169]],
    [[2.5538081, -0.02554119, -0.4351447], [-4.23698488, 0.25571298, 2.00594987]],
    [[-2.90070254, -0.35039941, -3.39349365], [3.22789263, 0.89792979, 2.68904334]],
    [[-0.52281542, -0.31913637, 0.25255003], [-0.42263491, -0.34039757, 0.21731325]],
])  # fmt: skip


def test_supcon_equals_supcontrast():
    """HobbitLong/SupContrast, losses.py: SupConLoss(temperature=0.1), whose factor is T / 0.07."""

    def loss(a, b):
        return 0.1 / 0.07 * info_nce(a, b, 10.0, PairOptions(ids=(LABELS,), duplicates="supcon"), same_side=True)

    check(loss, (A, KEYS), 15.796811350239528, np.moveaxis(SUPCON, 1, 0))


def test_simclr_equals_supcontrast_without_labels():
    check(
        lambda a, b: 0.1 / 0.07 * info_nce(a, b, 10.0, same_side=True),
        (A, KEYS),
        12.094623617272898,
        np.moveaxis(UNLABELED, 1, 0),
    )


def simclr(hidden1, hidden2, temperature=0.1):
    """google-research/simclr, objective.py, add_contrastive_loss, in NumPy: TensorFlow 1 no longer runs."""
    masks = np.eye(len(hidden1)) * 1e9
    logits_aa = hidden1 @ hidden1.T / temperature - masks
    logits_bb = hidden2 @ hidden2.T / temperature - masks
    logits_ab = hidden1 @ hidden2.T / temperature
    logits_ba = hidden2 @ hidden1.T / temperature
    losses = []
    for logits in (np.concatenate([logits_ab, logits_aa], 1), np.concatenate([logits_ba, logits_bb], 1)):
        losses.append(np.mean(np.log(np.exp(logits).sum(1)) - np.diagonal(logits)))
    return losses[0] + losses[1]


def test_twice_simclr_equals_the_released_sum_of_both_views():
    value, gradients = oracle.value_and_derivatives(simclr, A, KEYS)
    check(lambda a, b: 2 * info_nce(a, b, 10.0, same_side=True), (A, KEYS), value, gradients)


def decoupled(z1, z2, temperature=0.1):
    """raminnakhli/Decoupled-Contrastive-Learning, loss/dcl.py, DCL, in NumPy, with masks of minus infinity.

    The code has the logarithm of 1e-45, 103, for the latter.
    """

    def one_way(z1, z2):
        similarity = np.concatenate([z1 @ z1.T, z1 @ z2.T], 1) / temperature
        kept = 1 - np.tile(np.eye(len(z1)), 2)
        return np.mean(np.log((np.exp(similarity) * kept).sum(1)) - (z1 * z2).sum(1) / temperature)

    return one_way(z1, z2) + one_way(z2, z1)


def test_twice_decoupled_equals_the_released_sum_of_both_views():
    value, gradients = oracle.value_and_derivatives(decoupled, A, KEYS)
    loss = lambda a, b: 2 * info_nce(a, b, 10.0, same_side=True, decoupled=True)  # noqa: E731
    check(loss, (A, KEYS), value, gradients)


MOCO = np.array([
    [-0.35842818, -1.49143887, 0.26551563], [0.74047188, -1.30415872, 0.30528012],
    [0.44770769, -0.04801802, -1.00029328], [-0.84178472, -0.49544429, -0.48188674],
    [0.0757947, 0.13403016, 0.07698687],
])  # fmt: skip


def test_queue_alone_equals_moco():
    """facebookresearch/moco, moco/builder.py: the logits of forward at T = 0.2, and the cross-entropy with class 0."""

    def loss(a):
        return info_nce(a, KEYS, 5.0, PairOptions(extra_b=QUEUE), in_batch=False, direction="a_to_b")

    check(loss, (A,), 4.272400340640875, [MOCO])


VICREG = np.array([
    [[1.15883584, 1.30798513, 4.81363237], [-0.84811905, -4.61563107, 2.51993285],
     [-1.35972094, 3.77307106, -5.29253352], [-2.99376598, -1.61611244, 3.93054439],
     [-1.09621867, 1.04366931, -7.41994433]],
    [[-0.4648286, -0.72129393, -4.29786976], [0.32292004, 3.56610098, -2.50081711],
     [-1.11724834, -4.57369907, 4.17254764], [2.90004395, 2.15321095, -2.46017831],
     [3.49810175, -0.31730094, 6.53468576]],
])  # fmt: skip


def test_vicreg_equals_the_released_loss():
    """facebookresearch/vicreg, main_vicreg.py: VICReg.forward after the projector, on one process."""
    scale = np.array([0.5, 1.0, 1.5], np.float32)
    x = np.random.default_rng(0).normal(size=(2, B, D)).astype(np.float32) * scale + np.float32(0.3)
    parts = 1.2690712532679684, 0.3012153668872739, 0.19792521495241713

    def loss(a, b):
        spread = sum(12.5 * variance_hinge(v) + covariance_penalty(v) for v in (a, b))
        return 25 * mean_square(a, b) + spread

    check(loss, tuple(x), 39.455090718833475, VICREG)
    np.testing.assert_allclose(mean_square(*x), parts[0], rtol=1e-5)
    np.testing.assert_allclose((variance_hinge(x[0]) + variance_hinge(x[1])) / 2, parts[1], rtol=1e-5)
    np.testing.assert_allclose(covariance_penalty(x[0]) + covariance_penalty(x[1]), parts[2], rtol=1e-5)
