"""Compare the objectives of recipes with their papers: sums in NumPy (float64) over random embeddings.

All temperatures differ, so that a wrong weight or name shows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.image_text import contrastive_gap, m2mix, siglip
from experiments.multimodal import astrom3
from experiments.text import two_d_matryoshka
from experiments.vision import byol, mixed_barlow, moco, simsiam
from jaxrep.batch import StepContext
from jaxrep.objectives.base import evaluate
from jaxrep.objectives.wrappers import sampled_layer

B, D, DEPTH = 6, 5, 4
RANDOM = np.random.default_rng(0)
SCALES = {"scale": 7.0, "scale_second": 3.0, "scale_third": 11.0}


def ctx(step=0):
    return StepContext(step=np.int32(step), base_key=jax.random.key(0), total_steps=90)


def embeddings(*names):
    return {name: RANDOM.normal(size=(B, D)) for name in names}


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def objective_value(objective, outputs, step=0):
    rows = {name: jnp.asarray(x, jnp.float32) for name, x in outputs.items()}
    return evaluate(objective, rows, {}, ctx(step))[0]


def cross_entropy(logits, target=None):
    """Return the mean over rows; ``target``: rows of shares, or the diagonal."""
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -np.mean(np.sum((np.eye(len(logits)) if target is None else target) * logs, axis=1))


def clip(a, b, scale):
    logits = scale * a @ b.T
    return (cross_entropy(logits) + cross_entropy(logits.T)) / 2


def test_contrastive_gap_objectives_equal_paper():
    """Compute CLIP + (U_image + U_text) / 2 + A + U_across (Fahim et al. 2024)."""
    outputs = embeddings("image", "text")
    a, b = unit(outputs["image"]), unit(outputs["text"])

    def uniformity(x, y):
        return np.log(np.mean([np.exp(-2 * np.sum((x[i] - y[j]) ** 2)) for i in range(B) for j in range(B) if i != j]))

    cua = clip(a, b, 7.0) + 0.5 * uniformity(a, a) + 0.5 * uniformity(b, b) + np.mean(np.sum((a - b) ** 2, axis=1))
    np.testing.assert_allclose(objective_value(contrastive_gap.cua.objective, {**outputs, **SCALES}), cua, rtol=1e-5)
    cuaxu = cua + uniformity(a, b)
    np.testing.assert_allclose(
        objective_value(contrastive_gap.recipe.objective, {**outputs, **SCALES}), cuaxu, rtol=1e-5
    )


@pytest.mark.parametrize("step", [0, 25])  # of 90 steps in nine epochs: the first and the third
def test_m3_mix_objective_equals_paper(step):
    """Compute Oh et al. 2023: weights 0.01, 0.05, 0.05 and 0.1, divided by the number of the epoch."""
    outputs, objective = embeddings("image", "text"), m2mix.recipe.objective
    a, b = unit(outputs["image"]), unit(outputs["text"])

    def arc(x, y, share):
        angle = np.arccos(np.sum(x * y, axis=1, keepdims=True))
        return (np.sin(share * angle) * x + np.sin((1 - share) * angle) * y) / np.sin(angle)

    def share(name, site):
        return float(objective[name].share(ctx(step), site))

    hard = arc(a, b, share("m2_mix", "negatives"))
    total = 0.0
    for query in (a, b):
        own = np.sum(a * b, axis=1)
        logits = np.where(np.eye(B), own[:, None], query @ hard.T) / 0.07
        total += 0.01 * cross_entropy(logits)
    v_share, l_share, vl_share = (
        share(name, f"pairs/{side}") for name, side in (("v_mix", "a"), ("l_mix", "b"), ("vl_mix", "both"))
    )
    both = np.eye(B), np.eye(B)[::-1]
    for weight, x, y, parts in (
        (0.05, arc(a, a[::-1], v_share), b, (v_share, 1 - v_share)),
        (0.05, a, arc(b, b[::-1], l_share), (l_share, 1 - l_share)),
        (0.1, arc(a, a[::-1], vl_share), arc(b, b[::-1], vl_share), (1, 1)),
    ):
        target = parts[0] * both[0] + parts[1] * both[1]
        logits = 7.0 * x @ y.T
        total += weight * (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    expected = clip(a, b, 7.0) + total / (1 + step // 10)
    np.testing.assert_allclose(objective_value(objective, {**outputs, **SCALES}, step), expected, rtol=1e-5)


def test_astrom3_objective_equals_paper():
    """Compute Rizhko & Bloom 2024: the sum of both directions of the three pairs."""
    outputs = embeddings("photometry", "spectrum", "metadata")
    light, spectrum, metadata = (unit(x) for x in outputs.values())
    expected = 2 * (clip(light, spectrum, 7.0) + clip(spectrum, metadata, 3.0) + clip(metadata, light, 11.0))
    np.testing.assert_allclose(objective_value(astrom3.recipe.objective, {**outputs, **SCALES}), expected, rtol=1e-5)


def test_siglip_objective_equals_paper():
    """Compute Zhai et al. 2023, equation 1."""
    outputs = embeddings("image", "text")
    logits = 7.0 * unit(outputs["image"]) @ unit(outputs["text"]).T - 2.0
    expected = np.sum(np.log1p(np.exp(-(2 * np.eye(B) - 1) * logits))) / B
    np.testing.assert_allclose(
        objective_value(siglip.recipe.objective, {**outputs, **SCALES, "bias": -2.0}), expected, rtol=1e-5
    )


@pytest.mark.parametrize("weight", [1.0, 30.0])  # of the small recipe, and of the reproduction (ielab/2DMSE-Reproduce)
def test_two_d_matryoshka_objective_equals_paper(weight):
    """Compute Li et al. 2024: nested widths for the last and the sampled layer, and their divergence.

    The full width has the weight of the contrast, the others have it in total. The divergence is one mean over the rows
    of both sides (AnglE's released code) and has weight 1.
    """
    widths = (2, 4)
    outputs = {f"{side}/layers": RANDOM.normal(size=(B, DEPTH, D)) for side in "ab"}
    outputs |= {side: outputs[f"{side}/layers"][:, -1] for side in "ab"}
    layer = int(sampled_layer(ctx(), DEPTH))

    def contrast(a, b):
        cut = [(unit(a[:, :width]), unit(b[:, :width])) for width in (D, *widths)]
        return sum(w * clip(x, y, 20.0) for w, (x, y) in zip((1, 0.5, 0.5), cut, strict=True))

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)

    last = np.concatenate([outputs["a"], outputs["b"]])
    inner = {side: outputs[f"{side}/layers"][:, layer] for side in "ab"}
    p, q = softmax(last), softmax(np.concatenate([inner["a"], inner["b"]]))
    expected = weight * (contrast(outputs["a"], outputs["b"]) + contrast(inner["a"], inner["b"]))
    expected += np.mean(np.sum(p * np.log(p / q), axis=1))
    got = objective_value(two_d_matryoshka.objective(D, widths, weight), {**outputs, "scale": 20.0})
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def value_and_gradients(objective, outputs, names):
    """Return the objective and its gradients with respect to some outputs."""
    rest = {name: jnp.asarray(x, jnp.float32) for name, x in outputs.items() if name not in names}
    own = {name: jnp.asarray(outputs[name], jnp.float32) for name in names}
    return jax.value_and_grad(lambda x: evaluate(objective, {**rest, **x}, {}, ctx())[0])(own)


def through_lengths(x, gradient):
    """Return the gradient with respect to rows of any length, given that with respect to the unit rows."""
    rows = unit(x)
    across = gradient - np.sum(gradient * rows, axis=1, keepdims=True) * rows
    return across / np.linalg.norm(x, axis=1, keepdims=True)


def key_loss(query, keys, positive, scale):
    """Return the mean cross-entropy of each query's key ``positive`` among ``keys`` [B,K,D], and its gradient."""
    logits = scale * np.einsum("bd,bkd->bk", query, keys)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = shares - np.eye(keys.shape[1])[positive]
    loss = -np.mean(np.log(shares[np.arange(len(query)), positive]))
    return loss, scale * np.einsum("bk,bkd->bd", wrong, keys) / len(query)


def test_moco_objective_has_the_value_and_gradient_of_its_logits():
    """As in the released code (moco/builder.py): the own key first, then the queue's, over the temperature."""
    outputs = {**embeddings("a", "b/target"), "queue": unit(RANDOM.normal(size=(9, D)))}
    query, key = unit(outputs["a"]), unit(outputs["b/target"])
    keys = np.concatenate([key[:, None], np.broadcast_to(outputs["queue"], (B, 9, D))], axis=1)
    loss, slope = key_loss(query, keys, np.zeros(B, int), 1 / 0.2)
    value, found = value_and_gradients(moco.recipe.objective, {**outputs, "scale": 1 / 0.2}, ["a"])
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    np.testing.assert_allclose(found["a"], through_lengths(outputs["a"], slope), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("recipe", "temperature"), [(moco.v3, 0.2), (moco.v3_resnet, 1.0)])
def test_moco_v3_objective_has_the_value_and_gradient_of_both_directions(recipe, temperature):
    """As in the released code (moco/builder.py): the batch's keys, each direction times twice the temperature."""
    names = ["a/predicted", "b/predicted"]
    outputs = embeddings(*names, "a/target", "b/target")
    value, found = value_and_gradients(recipe.objective, {**outputs, "scale": 1 / temperature}, names)
    total = 0
    for name, other in zip(names, ("b/target", "a/target"), strict=True):
        keys = np.broadcast_to(unit(outputs[other]), (B, B, D))
        loss, slope = key_loss(unit(outputs[name]), keys, np.arange(B), 1 / temperature)
        total += 2 * temperature * loss
        slope = through_lengths(outputs[name], 2 * temperature * slope)
        np.testing.assert_allclose(found[name], slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, total, rtol=1e-5)


def test_byol_and_simsiam_objectives_have_the_values_and_gradients_of_their_cosines():
    """Squared distances of unit rows, summed over directions; half of minus the cosine each way, plus 1."""
    names = ["a/predicted", "b/predicted"]
    outputs = embeddings(*names, "a/target", "b/target")
    pairs = [(outputs[name], unit(outputs[other])) for name, other in zip(names, ("b/target", "a/target"), strict=True)]
    distances = sum(np.mean(np.sum((unit(x) - y) ** 2, axis=1)) for x, y in pairs)
    cosines = sum(np.mean(np.sum(unit(x) * y, axis=1)) for x, y in pairs)
    for recipe, expected, factor in ((byol.recipe, distances, -2), (simsiam.recipe, 1 - cosines / 2, -0.5)):
        value, found = value_and_gradients(recipe.objective, outputs, names)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for name, (x, y) in zip(names, pairs, strict=True):
            np.testing.assert_allclose(found[name], through_lengths(x, factor * y / B), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("preset", ["barlow", "barlow_tiny"])
def test_barlow_twins_alone_is_the_distance_of_correlations_from_the_identity(preset):
    recipe = getattr(mixed_barlow, preset)
    outputs = embeddings("a", "b")
    a, b = ((x - x.mean(0)) / x.std(0, ddof=1) for x in outputs.values())
    off = recipe.objective["twins"].redundancy * (1 - np.eye(D)) + np.eye(D)
    np.testing.assert_allclose(
        objective_value(recipe.objective, outputs), np.sum(off * (a.T @ b / B - np.eye(D)) ** 2), rtol=1e-5
    )
