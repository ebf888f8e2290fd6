"""Mapping tables load what they save, for every family, and by hand for every kind of map."""

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrep.errors import UsageError
from jaxrep.mesh import Mesh
from jaxrep.pretrained import load, mapping
from jaxrep.pretrained.mapping import ClassPositions, WeightMap, attention, linear, patches, torch_attention, under
from jaxrep.pretrained.tensors import Tensors, open_folder, write
from tests.helpers.checkpoint_folders import CONFIGS, folder, parameters

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("name", CONFIGS)
def test_save_inverts_load(tmp_path, name):
    written, tensors = folder(tmp_path, name)
    read = parameters(tmp_path)
    assert list(read) == list(written)
    for path, value in written.items():
        assert read[path].dtype == np.float32
        np.testing.assert_array_equal(read[path], value, err_msg=path)
    checkpoint = load.read(tmp_path)
    again = mapping.save(checkpoint.maps, read)
    assert again.keys() == tensors.keys() and not checkpoint.unused
    for tensor, value in tensors.items():
        np.testing.assert_array_equal(again[tensor], value, err_msg=tensor)


def save_and_check(table, parameters):
    """Tensors of a table, whose shapes are checked."""
    shapes = {path: value.shape for path, value in parameters.items()}
    maps = mapping.active(table, shapes, "a test")
    tensors = mapping.save(maps, parameters)
    for entry in maps:
        for names, slices, _ in mapping._slices(entry, shapes):
            assert [tensors[name].shape for name in names] == entry.shapes(slices)
    return tensors


def random(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_linear_and_attention_transpose_and_split_axes():
    parameters = {f"attention/{part}/kernel": random(6, 2, 4) for part in ("query", "key", "value")}
    parameters |= {"attention/query/bias": random(2, 4), "attention/out/kernel": random(2, 4, 6)}
    parameters |= {"d/kernel": random(6, 5)}
    tensors = save_and_check((*attention("{}_proj", "o", "qkv"), *linear("d", "d")), parameters)
    for name, part in (("q", "query"), ("k", "key"), ("v", "value")):
        expected = parameters[f"attention/{part}/kernel"].reshape(6, 8).T
        np.testing.assert_array_equal(tensors[f"{name}_proj.weight"], expected)
    np.testing.assert_array_equal(tensors["q_proj.bias"], parameters["attention/query/bias"].reshape(8))
    np.testing.assert_array_equal(tensors["o.weight"], parameters["attention/out/kernel"].reshape(8, 6).T)
    np.testing.assert_array_equal(tensors["d.weight"], parameters["d/kernel"].T)
    assert "d.bias" not in tensors and "k_proj.bias" not in tensors  # a map applies only if its parameters exist


def test_fused_attention_is_one_tensor():
    parameters = {f"attention/{name}/kernel": random(6, 2, 3) for name in ("query", "key", "value")}
    tensors = save_and_check(torch_attention("attn"), parameters)
    expected = np.concatenate([value.reshape(6, 6).T for value in parameters.values()])
    np.testing.assert_array_equal(tensors["attn.in_proj_weight"], expected)


def test_patch_convolution_is_a_dense_layer():
    tensors = save_and_check(patches("conv", 4), {"stem/project/kernel": random(4 * 4 * 3, 5)})
    assert tensors["conv.weight"].shape == (5, 3, 4, 4)
    image, kernel = random(4, 4, 3), tensors["conv.weight"]
    direct = np.einsum("dcpq,pqc->d", kernel.astype(np.float64), image)
    back = kernel.transpose(2, 3, 1, 0).reshape(-1, 5)
    np.testing.assert_allclose(image.reshape(-1) @ back, direct, atol=1e-5)  # float32 sums of 48


def test_layers_are_stacked_or_a_list():
    rows = (WeightMap("w.{layer}", "w", "o i -> i o"),)
    stacked = {"blocks/w": random(3, 2, 5)}
    tensors = save_and_check(under(rows, "layers.", "blocks/"), stacked)
    assert list(tensors) == ["layers.w.0", "layers.w.1", "layers.w.2"]
    np.testing.assert_array_equal(tensors["layers.w.1"], stacked["blocks/w"][1].T)
    plain = {f"blocks/{n}/w": random(2, 5 + n) for n in range(12)}
    tensors = save_and_check((WeightMap("layers.{layer}.w", "blocks/{layer}/w", "o i -> i o"),), plain)
    np.testing.assert_array_equal(tensors["layers.11.w"], plain["blocks/11/w"].T)
    assert len(tensors) == 12


def test_class_token_absorbs_its_position():
    entry = ClassPositions("cls", positions="pos", grid=2, fit=2, lead=1)
    token, positions = random(1, 1, 5), random(1, 5, 5)
    parameters = entry.load([token, positions], [(5,), (4, 5)])
    np.testing.assert_array_equal(parameters[0], token[0, 0] + positions[0, 0])
    np.testing.assert_array_equal(parameters[1], positions[0, 1:])
    back = entry.save(parameters)
    np.testing.assert_array_equal(back[0][0, 0] + back[1][0, 0], parameters[0])
    np.testing.assert_array_equal(back[1][0, 1:], parameters[1])


def test_parameter_without_map_is_an_error():
    with pytest.raises(UsageError, match=r"CLIP's layout has no place for parameter 'b/gate/kernel' of this model"):
        mapping.active(linear("b", "b"), {"b/kernel": (2, 2), "b/gate/kernel": (2, 2)}, "CLIP's layout")


def test_undetermined_axis_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"the sizes of \['p', 'q', 'c'\] do not follow from the map of 'w'"):
        WeightMap("w", "w", "d c p q -> (p q c) d").shapes([(48, 5)])


def test_load_on_a_mesh_gives_the_same_embeddings(tmp_path):
    folder(tmp_path)
    plain = load.load_checkpoint(tmp_path)
    split = load.load_checkpoint(tmp_path, Mesh(fsdp=4, data=2, min_shard_size=1))
    kernel = split._arrays["image/blocks/mlp/up/kernel"]
    assert kernel.sharding.spec == P(None, None, "fsdp") and kernel.addressable_shards[0].data.shape == (2, 8, 3)
    x = random(3, 8, 8, 3)
    np.testing.assert_allclose(split.encode_image(x), plain.encode_image(x), atol=1e-6)  # other order of sums


def test_tensors_are_read_once_largest_first(tmp_path, monkeypatch):
    arrays = {"small": random(2), "blocks/w": random(3, 4, 4), "large": random(9, 9)}
    maps = mapping.active(
        (WeightMap("s", "small"), WeightMap("w.{layer}", "blocks/w"), WeightMap("l", "large")),
        {k: v.shape for k, v in arrays.items()},
        "",
    )
    write(tmp_path, mapping.save(maps, arrays))
    read, placed = [], []
    tensors = open_folder(tmp_path)
    original = Tensors.read
    monkeypatch.setattr(Tensors, "read", lambda self, name: read.append(name) or original(self, name))
    loaded = mapping.load(maps, {k: v.shape for k, v in arrays.items()}, tensors, lambda p, v: placed.append(p) or v)
    assert read == ["l", "w.0", "w.1", "w.2", "s"] and placed == ["large", "blocks/w", "small"]
    assert list(loaded) == list(arrays)
    assert all(value.ctypes.data % 64 == 0 for value in loaded.values())
