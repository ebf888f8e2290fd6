"""Folders give every image with its class, and an error names the file."""

import pytest
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.errors import BadSample, UsageError


def _draw(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (level, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path):
    for level, name in enumerate(("dog/b.png", "dog/a.PNG", "cat/deep/z.webp", "cat/c.png", "dog/.hidden.png")):
        _draw(tmp_path / name, level)
    (tmp_path / "cat/notes.txt").write_text("no picture")
    return tmp_path


def test_images_are_sorted_and_sub_folders_are_classes(folder):
    examples = ImageFolder(path=str(folder), image_size=4).open()
    assert examples.column("key") == ["cat/c.png", "cat/deep/z.webp", "dog/a.PNG", "dog/b.png"]
    assert examples.column("label").tolist() == [0, 0, 1, 1]
    assert examples.classes == {"label": ["cat", "dog"]}
    assert [int(examples[i]["image"][0, 0, 0]) for i in (0, 2, 3)] == [3, 1, 0]  # the WebP is lossy


def test_folder_without_labels_may_be_flat(folder):
    _draw(folder / "e.png", 7)
    examples = ImageFolder(path=str(folder), labels_from_folders=False, image_size=4).open()
    assert len(examples) == 5 and "label" not in examples[0]
    with pytest.raises(UsageError, match=r"e.png lies in no sub-folder"):
        ImageFolder(path=str(folder)).open()


def test_wrong_number_of_classes_is_refused(folder):
    assert ImageFolder(path="x", classes=2).fields()["label"] == Field((), "int32", 2)
    assert len(ImageFolder(path=str(folder), classes=2).open()) == 4
    with pytest.raises(UsageError, match=r"has 2 folders of images, but classes is 3"):
        ImageFolder(path=str(folder), classes=3).open()


def test_missing_or_empty_folder_is_reported(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        ImageFolder(path=f"{tmp_path}/nowhere").open()
    with pytest.raises(UsageError, match=r"has no image"):
        ImageFolder(path=str(tmp_path)).open()


def test_folder_of_shards_says_how_they_are_named(tmp_path):
    for name in ("a.tar", "b.tar", "a.json"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=rf"to read the shards, name them, as '{tmp_path}/\*\.tar'$"):
        ImageFolder(path=str(tmp_path)).open()


def test_links_to_folders_are_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for level, name in enumerate(("bird/a.png", "bird/b.png", "fish/a.png")):
        _draw(elsewhere / name, 100 + level)
    (folder / "bird").symlink_to(elsewhere / "bird")
    (folder / "fish").symlink_to(elsewhere / "fish", target_is_directory=True)
    (folder / "dog/link.png").symlink_to(elsewhere / "fish/a.png")
    (folder / ".hidden").symlink_to(elsewhere)
    examples = ImageFolder(path=str(folder), image_size=4).open()
    assert examples.classes == {"label": ["bird", "cat", "dog", "fish"]} and len(examples) == 8
    assert examples.column("label").tolist() == [0, 0, 1, 1, 2, 2, 2, 3]
    only = folder.parent / f"{folder.name}-links"
    only.mkdir()
    for name in ("cat", "dog", "bird"):
        (only / name).symlink_to(folder / name)
    assert ImageFolder(path=str(only), image_size=4).open().classes == {"label": ["bird", "cat", "dog"]}


def test_links_in_a_circle_end(folder):
    (folder / "cat/up").symlink_to(folder)
    (folder / "cat/self").symlink_to(folder / "cat")
    (folder / "dog/cats").symlink_to(folder / "cat")
    (folder / "cat/dogs").symlink_to(folder / "dog")
    names = ImageFolder(path=str(folder), image_size=4).open().column("key")
    assert "cat/dogs/a.PNG" in names and "dog/cats/c.png" in names and len(names) == 4 + 2 + 2
    (folder / "dog/broken.png").symlink_to(folder / "nowhere.png")
    examples = ImageFolder(path=str(folder), image_size=4).open()
    with pytest.raises(BadSample, match=r"broken.png cannot be read \(No such file"):
        examples[examples.column("key").index("dog/broken.png")]


def test_folder_without_images_says_what_it_holds(tmp_path):
    for name in ("a/x.heic", "a/y.HEIC", "a/notes.txt", "a/README", "a/.b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"has no image: .*; its files end 2 in .heic, 1 in \.?\w+, 1 in \.?\w+$"):
        ImageFolder(path=str(tmp_path)).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"has no image: .*; it has no visible file"):
        ImageFolder(path=f"{tmp_path}/empty").open()
