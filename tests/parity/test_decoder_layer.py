"""Cross-attention of the block against torch's decoder layer, whose weights it takes over."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders import TextTransformer
from jaxrep.encoders.blocks import BlockInputs, Sight
from tests.helpers.parity import assert_near, perturbed

torch = pytest.importorskip("torch", reason="parity with torch needs the extra 'parity'")

WIDTH, HEADS, N, M = 16, 4, 5, 7
NORMS = {"norm1": "norm1", "norm2": "cross_norm", "norm3": "norm2"}
LAYERS = {"linear1": "mlp/up", "linear2": "mlp/down"}


def taken_over(layer):
    """Return {path: array} of the block, from the parameters of torch's layer."""
    theirs = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    found = {}
    for torch_name, name in {"self_attn": "attention", "multihead_attn": "cross_attention"}.items():
        kernels = theirs[f"{torch_name}.in_proj_weight"].reshape(3, HEADS, -1, WIDTH).transpose(0, 3, 1, 2)
        biases = theirs[f"{torch_name}.in_proj_bias"].reshape(3, HEADS, -1)
        for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            found |= {f"{name}/{part}/kernel": kernel, f"{name}/{part}/bias": bias}
        found[f"{name}/out/kernel"] = theirs[f"{torch_name}.out_proj.weight"].T.reshape(HEADS, -1, WIDTH)
        found[f"{name}/out/bias"] = theirs[f"{torch_name}.out_proj.bias"]
    for torch_name, name in NORMS.items():
        found |= {f"{name}/scale": theirs[f"{torch_name}.weight"], f"{name}/bias": theirs[f"{torch_name}.bias"]}
    for torch_name, name in LAYERS.items():
        found |= {f"{name}/kernel": theirs[f"{torch_name}.weight"].T, f"{name}/bias": theirs[f"{torch_name}.bias"]}
    return found


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_block_with_a_memory_equals_a_decoder_layer(norm):
    layer = perturbed(
        torch.nn.TransformerDecoderLayer(
            WIDTH, HEADS, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
        ),
        torch,
    )
    spec = TextTransformer(width=WIDTH, depth=1, heads=HEADS, mlp_ratio=2.0, norm=norm, memory=WIDTH)
    module = spec.build(nnx.Rngs(0), inputs=Field((N,), "int32", 9))
    graph, state = nnx.split(module.blocks)
    weights = taken_over(layer)
    flat = dict(nnx.to_flat_state(state))
    assert {"/".join(path) for path in flat} == weights.keys()
    for path, leaf in flat.items():
        leaf[...] = jnp.asarray(weights["/".join(path)])[None]
    block = nnx.merge(graph, nnx.from_flat_state([(path, leaf[0]) for path, leaf in flat.items()]))
    rng = np.random.default_rng(0)
    h, memory = rng.normal(size=(2, N, WIDTH)).astype(np.float32), rng.normal(size=(2, M, WIDTH)).astype(np.float32)
    real = np.array([[True] * M, [True] * 4 + [False] * 3])
    causal = np.tril(np.ones((N, N), bool))
    with torch.no_grad():
        theirs = layer(
            torch.tensor(h),
            torch.tensor(memory),
            tgt_mask=torch.tensor(~causal),
            memory_key_padding_mask=torch.tensor(~real),
        )
    read = BlockInputs(Sight(jnp.asarray(causal)[None, None]), memory=memory, memory_mask=real[:, None, None])
    assert_near(np.asarray(block(jnp.asarray(h), read, 0)), theirs.numpy())
