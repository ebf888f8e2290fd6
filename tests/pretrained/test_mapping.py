"""Tables are read both ways: what is written is what was read, for every family and by hand for every kind of row."""

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrep.errors import UsageError
from jaxrep.mesh import Mesh
from jaxrep.pretrained import load, mapping
from jaxrep.pretrained.mapping import ClassPositions, Row, fused, heads, linear, merged, patches, under
from jaxrep.pretrained.resize import resize_positions
from jaxrep.pretrained.tensors import Tensors, open_folder, write
from tests.helpers.checkpoint_folders import CONFIGS, folder, parameters

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_is_what_was_read(tmp_path, name):
    written, tensors = folder(tmp_path, name)
    read = parameters(tmp_path)
    assert list(read) == list(written)
    for path, value in written.items():
        assert read[path].dtype == np.float32
        np.testing.assert_array_equal(read[path], value, err_msg=path)
    checkpoint = load.read(tmp_path)
    again = mapping.save(checkpoint.rows, read)
    assert again.keys() == tensors.keys() and not checkpoint.unused
    for tensor, value in tensors.items():
        np.testing.assert_array_equal(again[tensor], value, err_msg=tensor)


def there_and_back(table, ours):
    shapes = {path: value.shape for path, value in ours.items()}
    rows = mapping.active(table, shapes, "a test")
    theirs = mapping.save(rows, ours)
    for row in rows:  # what a row says of shapes is what it writes
        for names, each, _ in mapping._units(row, shapes):
            assert [theirs[name].shape for name in names] == row.shapes(each)
    return theirs


def random(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_a_dense_layer_is_transposed_and_its_axes_are_split():
    ours = {"q/kernel": random(6, 2, 4), "q/bias": random(2, 4), "o/kernel": random(2, 4, 6), "d/kernel": random(6, 5)}
    theirs = there_and_back((*heads("q", "q"), *merged("o", "o"), *linear("d", "d")), ours)
    np.testing.assert_array_equal(theirs["q.weight"], ours["q/kernel"].reshape(6, 8).T)
    np.testing.assert_array_equal(theirs["q.bias"], ours["q/bias"].reshape(8))
    np.testing.assert_array_equal(theirs["o.weight"], ours["o/kernel"].reshape(8, 6).T)
    np.testing.assert_array_equal(theirs["d.weight"], ours["d/kernel"].T)
    assert "d.bias" not in theirs  # a row counts where its parameters exist


def test_queries_keys_and_values_are_one_tensor_there():
    ours = {f"a/{name}/kernel": random(6, 2, 3) for name in ("query", "key", "value")}
    theirs = there_and_back(fused("in_proj", "a"), ours)
    expected = np.concatenate([value.reshape(6, 6).T for value in ours.values()])
    np.testing.assert_array_equal(theirs["in_proj_weight"], expected)


def test_a_convolution_is_a_dense_layer_on_patches():
    theirs = there_and_back(patches("conv", "stem", 4), {"stem/kernel": random(4 * 4 * 3, 5)})
    assert theirs["conv.weight"].shape == (5, 3, 4, 4)
    image, kernel = random(4, 4, 3), theirs["conv.weight"]
    direct = np.einsum("dcpq,pqc->d", kernel.astype(np.float64), image)
    back = kernel.transpose(2, 3, 1, 0).reshape(-1, 5)
    np.testing.assert_allclose(image.reshape(-1) @ back, direct, atol=1e-5)  # float32 sums of 48


def test_layers_are_stacked_or_a_plain_list():
    rows = (Row("w.{layer}", "w", "o i -> i o"),)
    stacked = {"blocks/w": random(3, 2, 5)}
    theirs = there_and_back(under(rows, "layers.", "blocks/"), stacked)
    assert list(theirs) == ["layers.w.0", "layers.w.1", "layers.w.2"]
    np.testing.assert_array_equal(theirs["layers.w.1"], stacked["blocks/w"][1].T)
    plain = {f"blocks/{n}/w": random(2, 5 + n) for n in range(12)}
    theirs = there_and_back((Row("layers.{layer}.w", "blocks/{layer}/w", "o i -> i o"),), plain)
    np.testing.assert_array_equal(theirs["layers.11.w"], plain["blocks/11/w"].T)
    assert len(theirs) == 12


def test_a_class_token_takes_its_position_with_it():
    row = ClassPositions("cls", ("c", "p"), positions="pos", grid=2, fit=2, lead=1)
    token, positions = random(1, 1, 5), random(1, 5, 5)
    ours = row.load([token, positions], [(5,), (4, 5)])
    np.testing.assert_array_equal(ours[0], token[0, 0] + positions[0, 0])
    np.testing.assert_array_equal(ours[1], positions[0, 1:])
    back = row.save(ours)
    np.testing.assert_array_equal(back[0][0, 0] + back[1][0, 0], ours[0])
    np.testing.assert_array_equal(back[1][0, 1:], ours[1])


def test_a_parameter_without_a_row_is_told():
    with pytest.raises(UsageError, match=r"CLIP's layout has no place for parameter 'b/gate/kernel' of this model"):
        mapping.active(linear("b", "b"), {"b/kernel": (2, 2), "b/gate/kernel": (2, 2)}, "CLIP's layout")


def test_sizes_that_nothing_tells_are_asked_for():
    with pytest.raises(ValueError, match=r"does not tell the sizes of \['p', 'q', 'c'\]"):
        Row("w", "w", "d c p q -> (p q c) d").shapes([(48, 5)])


def test_resized_positions_keep_a_constant_and_a_slope():
    """Keys' kernel with a = -0.5, which antialiasing takes, reproduces what is linear, away from the border."""

    def field(side):
        y, x = (np.mgrid[:side, :side] + 0.5) / side
        return np.stack([np.full_like(x, 3.0), x, y], -1)

    for side, antialias in ((8, False), (8, True), (20, False), (20, True)):
        found = resize_positions(field(12).reshape(-1, 3), (12, 12), (side, side), antialias=antialias)
        found = found.reshape(side, side, 3)
        np.testing.assert_allclose(found[..., 0], 3, rtol=1e-6)
        if antialias and side == 20:
            np.testing.assert_allclose(found[6:-6, 6:-6], field(20)[6:-6, 6:-6], atol=1e-6)
    assert resize_positions(found, (20, 20), (20, 20)) is found


def test_parameters_lie_on_the_mesh_and_embeddings_stay(tmp_path):
    folder(tmp_path)
    plain = load.load_checkpoint(tmp_path)
    split = load.load_checkpoint(tmp_path, Mesh(fsdp=4, data=2, min_shard_size=1))
    kernel = split._arrays["image/blocks/mlp/up/kernel"]
    assert kernel.sharding.spec == P(None, None, "fsdp") and kernel.addressable_shards[0].data.shape == (2, 8, 3)
    x = random(3, 8, 8, 3)
    np.testing.assert_allclose(split.encode_image(x), plain.encode_image(x), atol=1e-6)  # other order of sums


def test_a_tensor_is_read_once_and_the_largest_row_first(tmp_path, monkeypatch):
    arrays = {"small": random(2), "blocks/w": random(3, 4, 4), "large": random(9, 9)}
    rows = mapping.active(
        (Row("s", "small"), Row("w.{layer}", "blocks/w"), Row("l", "large")),
        {k: v.shape for k, v in arrays.items()},
        "",
    )
    write(tmp_path, mapping.save(rows, arrays))
    read, placed = [], []
    tensors = open_folder(tmp_path)
    original = Tensors.read
    monkeypatch.setattr(Tensors, "read", lambda self, name: read.append(name) or original(self, name))
    found = mapping.load(rows, {k: v.shape for k, v in arrays.items()}, tensors, lambda p, v: placed.append(p) or v)
    assert read == ["l", "w.0", "w.1", "w.2", "s"] and placed == ["large", "blocks/w", "small"]
    assert list(found) == list(arrays)
    assert all(value.ctypes.data % 64 == 0 for value in found.values())
