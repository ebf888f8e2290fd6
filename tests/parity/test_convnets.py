"""EfficientNet and ResNet against transformers: the same features from the same random weights and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.efficientnet import EfficientNet
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PixelNorm

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

RNG = np.random.default_rng(0)
PIXELS = PixelNorm(mean=(0.0,) * 3, std=(1.0,) * 3)
FIELD = Field(shape=(32, 32, 3), dtype="float32")


def randomized(model):
    """Randomize all parameters and running statistics of a torch model, so that none is one or zero."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        size = value[0].numel() if value.ndim > 1 else 1
        draw = RNG.normal(0, (2 / size) ** 0.5 if value.ndim > 1 else 0.2, value.shape)
        if value.ndim == 1 and not name.endswith(("bias", "running_mean")):
            draw = RNG.uniform(0.7, 1.3, value.shape)
        value.copy_(torch.tensor(draw))
    return model.eval()


def build(spec):
    """Return the module with NaN everywhere, so that a parameter or statistic that is not copied shows."""
    graph, state = nnx.split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=FIELD)))
    return nnx.merge(graph, jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), state))


def conv(target, source):
    target.kernel[...] = jnp.array(source.weight.detach().numpy().transpose(2, 3, 1, 0))


def norm(target, source):
    target.scale[...] = jnp.array(source.weight.detach().numpy())
    target.bias[...] = jnp.array(source.bias.detach().numpy())
    target.mean[...] = jnp.array(source.running_mean.numpy())
    target.variance[...] = jnp.array(source.running_var.numpy())


def dense(target, source):
    """Return a 1 x 1 convolution of torch as a dense layer."""
    target.kernel[...] = jnp.array(source.weight.detach().numpy()[:, :, 0, 0].T)
    target.bias[...] = jnp.array(source.bias.detach().numpy())


def compare(module, model, want):
    """Compare features at inference for 32 x 32 pixels (all sides are even, where both paddings agree)."""
    x = RNG.normal(size=(3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = want(model(torch.tensor(x.transpose(0, 3, 1, 2)))).numpy()
    ours = jax.jit(lambda module, x: module(EncoderInputs(x)).pooled)(module, x)
    # float32 through some twenty convolutions, summed in another order
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def efficientnet_block(block, source):
    if block.expand is not None:
        conv(block.expand.layer.conv, source.expansion.expand_conv)
        norm(block.expand.layer.norm, source.expansion.expand_bn)
    conv(block.depthwise.layer.conv, source.depthwise_conv.depthwise_conv)
    norm(block.depthwise.layer.norm, source.depthwise_conv.depthwise_norm)
    dense(block.excite.reduce, source.squeeze_excite.reduce)
    dense(block.excite.expand, source.squeeze_excite.expand)
    conv(block.project.conv, source.projection.project_conv)
    norm(block.project.norm, source.projection.project_bn)


@pytest.mark.parametrize("head_conv", [True, False])
def test_efficientnet(head_conv):
    spec = EfficientNet(width_factor=0.5, depth_factor=0.3, head_conv=head_conv, pixels=PIXELS)
    model = randomized(
        transformers.EfficientNetModel(
            transformers.EfficientNetConfig(width_coefficient=0.5, depth_coefficient=0.3, hidden_dim=640, image_size=32)
        )
    )
    module = build(spec)
    conv(module.stem.layer.conv, model.embeddings.convolution)
    norm(module.stem.layer.norm, model.embeddings.batchnorm)
    for block, source in zip(module.blocks, model.encoder.blocks, strict=True):
        efficientnet_block(block, source)
    if not head_conv:
        model.encoder.top_conv = torch.nn.Identity()
        model.encoder.top_bn = torch.nn.Identity()
        model.encoder.top_activation = torch.nn.Identity()
    else:
        conv(module.head.layer.conv, model.encoder.top_conv)
        norm(module.head.layer.norm, model.encoder.top_bn)
    compare(module, model, lambda out: out.last_hidden_state.mean((2, 3)))


def resnet_layer(layer, source):
    conv(layer.conv, source.convolution)
    norm(layer.norm, source.normalization)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_resnet(bottleneck):
    spec = ResNet(depths=(2, 2, 1), width=8, bottleneck=bottleneck, pixels=PIXELS)
    widths = [8 * 2**stage * spec.expansion for stage in range(3)]
    model = randomized(
        transformers.ResNetModel(
            transformers.ResNetConfig(
                embedding_size=8,
                hidden_sizes=widths,
                depths=[2, 2, 1],
                layer_type="bottleneck" if bottleneck else "basic",
            )
        )
    )
    module = build(spec)
    resnet_layer(module.stem.layer, model.embedder.embedder)
    sources = [layer for stage in model.encoder.stages for layer in stage.layers]
    for block, source in zip(module.blocks, sources, strict=True):
        for layer, theirs in zip(block.layers, source.layer, strict=True):
            resnet_layer(layer, theirs)
        if block.shortcut is not None:
            resnet_layer(block.shortcut, source.shortcut)
    compare(module, model, lambda out: out.pooler_output[:, :, 0, 0])
