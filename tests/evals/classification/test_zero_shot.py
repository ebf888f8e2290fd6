"""Zero-shot classification: prompts, ensembles, and strict accuracy."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from jaxrep.batch import Field
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.prompts import CLIP_SEVEN, class_embeddings, clip_80, imagenet_classes, lines
from tests.helpers.eval_oracles import calibration_by_loops
from tests.helpers.fake_model import FakeModel, given, pictures, unit

NAMES = ("cat", "dog", "bird", "fish")
TEMPLATES = ("a {}.", "my {}!")


def world(n=30, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=n).astype(np.int32)  # no fish
    centers = random.normal(size=(4, 6))
    texts = {
        t.format(name): unit(centers[k] + random.normal(size=6)) for k, name in enumerate(NAMES) for t in TEMPLATES
    }
    images = unit(centers[labels] + random.normal(size=(n, 6)))
    return FakeModel(images, texts, scale=np.float32(10)), pictures(range(n)), labels


def test_accuracies_equal_their_definition():
    model, images, labels = world()
    data = given({"label": NAMES}, image=images, label=labels)
    found = ZeroShot(data=data, templates=TEMPLATES, ks=(1, 2)).run(model)
    ensemble = unit([sum(model.texts[t.format(name)].astype(np.float64) for t in TEMPLATES) for name in NAMES])
    order = np.argsort(-(model.images @ ensemble.T), axis=1)
    right = order[:, 0] == labels
    expected = {
        "zeroshot/top1": right.mean(),
        "zeroshot/top2": (order[:, :2] == labels[:, None]).any(1).mean(),
        "zeroshot/mean_per_class": np.mean([right[labels == k].mean() for k in range(3)]),
        "zeroshot/calibration_error": calibration_by_loops(
            softmax(10 * model.images @ ensemble.T, axis=1).max(1), right, 15
        ),
    }
    assert found == pytest.approx(expected)
    assert 0 < found["zeroshot/top1"] < found["zeroshot/top2"] <= 1
    given_names = ZeroShot(data=given(image=images, label=labels), classes=NAMES, templates=TEMPLATES, ks=(1, 2))
    assert given_names.run(model) == found


def test_prompt_ensemble_is_the_normalized_mean_of_unit_embeddings():
    model, *_ = world()
    found = class_embeddings(model.encode_text, NAMES, TEMPLATES)
    for k, name in enumerate(NAMES):
        mean = (model.texts[f"a {name}."] + model.texts[f"my {name}!"]) / 2
        np.testing.assert_allclose(found[k], mean / np.linalg.norm(mean), rtol=1e-6)  # float32
    assert found.dtype == np.float32


def test_ties_count_against_the_model_and_equal_names_are_one_answer():
    texts = {"crane": unit([1, 0]), "maillot": unit([0, 1]), "bird": unit([1, 0])}
    model = FakeModel(unit([[1, 0]] * 2), texts, scale=np.float32(1e3))
    data = given(image=pictures([0, 1]), label=np.int32([0, 2]))
    twice = ZeroShot(data=data, classes=("crane", "maillot", "crane"), ks=(1,)).run(model)
    assert twice == {"zeroshot/top1": 1.0, "zeroshot/mean_per_class": 1.0, "zeroshot/calibration_error": 0.0}
    tied = ZeroShot(data=data, classes=("crane", "maillot", "bird"), ks=(1, 2)).run(model)
    assert tied == {
        "zeroshot/top1": 0.0,
        "zeroshot/top2": 1.0,
        "zeroshot/mean_per_class": 0.0,
        "zeroshot/calibration_error": 0.5,  # each of the two is believed by half
    }


def test_unmeasurable_data_is_one_sentence():
    model, images, labels = world()
    with pytest.raises(JaxrepError, match="does not name the classes of 'label'"):
        ZeroShot(data=given(image=images, label=labels)).run(model)
    with pytest.raises(JaxrepError, match=r"'label' of example \d+ is 2, and there are 2 names"):
        ZeroShot(data=given(image=images, label=labels), classes=("cat", "dog"), templates=TEMPLATES).run(model)
    model.texts["my dog!"] = -model.texts["a dog."]
    with pytest.raises(JaxrepError, match="of class 'dog' add up to zero"):
        ZeroShot(data=given(image=images, label=labels), classes=NAMES, templates=TEMPLATES).run(model)


def test_problems_of_ks_output_and_templates():
    _, images, labels = world()
    data = given(image=images, label=labels)
    assert not [*ZeroShot(data=data).problems()]
    found = [*ZeroShot(data=data, templates=("a photo",), ks=(), output="pixels").problems()]
    assert [sentence.split()[0] for sentence in found] == ["ks", "output", "a"]


def test_imagenet_names_and_templates_of_clip():
    names, templates = imagenet_classes(), clip_80()
    assert (len(names), len(set(names))) == (1000, 998)  # missile and sunglasses stand for two classes each
    assert (names[0], names[134], names[517], names[999]) == (
        "tench",
        "crane bird",
        "construction crane",
        "toilet paper",
    )
    assert len(set(templates)) == 80 and all(each.count("{}") == 1 for each in templates)
    assert len(set(CLIP_SEVEN) & set(templates)) == 7
    _, images, labels = world()
    preset = ZeroShot.imagenet(given(image=images, label=labels))
    assert (preset.classes, preset.templates, [*preset.problems()]) == (names, templates, [])


@pytest.fixture
def benchmark(tmp_path):
    """A folder as CLIP_benchmark writes it, of three classes and five pictures in two tars."""
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}.\nmy {c}!\n")
    (tmp_path / "test/nshards.txt").write_text("2")
    for shard, colors in enumerate([(0, 1, 2), (2, 1)]):
        with tarfile.open(tmp_path / f"test/{shard}.tar", "w") as tar:
            for i, color in enumerate(colors):
                picture = io.BytesIO()
                Image.fromarray(np.eye(3, dtype=np.uint8)[[[color]]].repeat(4, 0).repeat(4, 1) * 255).save(
                    picture, "webp"
                )
                for name, content in ((f"s{i}.webp", picture.getvalue()), (f"s{i}.cls", str(color).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return tmp_path


class Colors(FakeModel):
    """Sees the mean color of a picture."""

    def encode_image(self, pictures, name="image", *, output="", normalize=True):
        return np.stack([picture.mean((0, 1)) / np.linalg.norm(picture.mean((0, 1))) for picture in pictures])


def test_clip_benchmark_folder(benchmark):
    found = ZeroShot.of_clip_benchmark(str(benchmark), image_size=4, name="colors")
    assert (found.classes, found.templates) == (("red", "green", "blue"), ("a {}.", "my {}!"))
    assert not [*found.problems()]
    texts = {t.format(c): row for row, c in zip(np.eye(3), found.classes, strict=True) for t in TEMPLATES}
    model = Colors([], texts, scale=np.float32(1))
    model.fields["image"] = Field((4, 4, 3), "uint8")
    metrics = found.run(model)
    assert metrics["colors/top1"] == 1 and len(metrics["colors/top1"].values) == 5


def test_wrong_clip_benchmark_folder_is_one_sentence(benchmark):
    (benchmark / "test/nshards.txt").write_text("many")
    with pytest.raises(UsageError, match=r"nshards.txt holds 'many', not the number of shards"):
        ZeroShot.of_clip_benchmark(str(benchmark), image_size=4)
    (benchmark / "classnames.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"classnames.txt holds no name"):
        ZeroShot.of_clip_benchmark(str(benchmark), image_size=4)
    (benchmark / "classnames.txt").unlink()
    with pytest.raises(UsageError, match=r"cannot be read.*classnames.txt"):
        lines(str(benchmark / "classnames.txt"))
