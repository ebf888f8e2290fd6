"""``hf://`` addresses: what is fetched, what goes wrong, and what is recorded, with the real client on loopback."""

import json
import shutil

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import jaxrep
from jaxrep.errors import UsageError
from jaxrep.runs.restore import load_run
from tests.helpers.checkpoint_folders import folder
from tests.helpers.tiny_hub import Client, Hub, Repository
from tests.helpers.trained_model import CLIP, finished, pairs

TOKEN = "hf_" + "abcDEF0123456789" * 2 + "ab"
IDS = [[1, 2, 39, 0, 0, 0]]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    hub = Hub(TOKEN)
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(hub, home):
    client = Client(hub, home)
    yield client
    client.close()


@pytest.fixture(scope="module")
def clip(hub, tmp_path_factory):
    """A repository org/clip with a tag v1, and files that must not be fetched; return its folder."""
    path = tmp_path_factory.mktemp("clip")
    folder(path)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02pickle")
    (path / "modeling.py").write_text("raise SystemExit")
    (path / "README.md").write_text("words")
    hub.push(path, "org/clip", "v1")
    hub.push(path, "org/clip")
    return path


def embedding(model):
    return f"{model}.encode_text(__import__('numpy').array({IDS})).tolist()"


def test_address_loads_as_its_folder_and_fetches_no_pickle_and_no_code(hub, client, clip):
    hub.requests.clear()
    found = client(embedding("jaxrep.load('hf://org/clip')"))
    np.testing.assert_array_equal(json.loads(found), jaxrep.load(clip).encode_text(np.array(IDS)))
    assert hub.fetched() == {"config.json", "model.safetensors"}


def test_revision_is_a_tag_or_a_commit(hub, client, clip):
    commit = hub.models["org/clip"].refs["v1"]
    hub.models["org/clip"].refs |= {"refs/pr/1": commit, "of/me": commit}
    for revision in ("v1", commit, "refs/pr/1", "of%2Fme"):
        assert client(f"str(jaxrep.hub.local_path('hf://org/clip@{revision}'))").endswith(f"snapshots/{commit}'")
    assert client("jaxrep.hub.at_commit('hf://org/clip@v1')") == f"'hf://org/clip@{commit}'"
    path = f"jaxrep.hub.local_path('hf://org/clip@{commit}')"
    assert client(f"jaxrep.hub.address_of({path})") == f"'hf://org/clip@{commit}'"


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf://org/clip@v9", "UsageError: {} names a revision that does not exist: give a branch, a tag or a commit"),
        (
            "hf://org/none",
            "UsageError: {} does not exist on {hub}, or is private: check the name, or set HF_TOK",
        ),
        (
            "hf://org/private",
            "UsageError: {} does not exist on {hub}, or is private: check the name, or set HF_T",
        ),
        ("hf://org/gated", "UsageError: {} is gated: ask for access at {hub}/org/gated, and set HF_TOKEN, or run `hf "),
        ("hf://clip", "UsageError: {} is not an address on a hub: expected hf://ORG/NAME or hf://ORG/NAME@REVISION"),
        ("hf://", "UsageError: {} is not an address on a hub: expected hf://ORG/NAME or hf://ORG/NAME@REVISION"),
        ("hf://org/clip@", "UsageError: {} is not an address on a hub: expected hf://ORG/NAME"),
        ("hf://datasets/org/clip", "UsageError: {} is a dataset and not a model: expected hf://ORG/NAME"),
        ("hf://org/clip/../..", "UsageError: {} leaves its repository: expected"),
        ("hf://org/clip/absent", "UsageError: {} has no 'absent': only *.json, *.txt, *.txt.gz, *.model, *.safetens"),
        ("hf://org/clip/pytorch_model.bin", "UsageError: {} is not read: only *.json, *.txt, *.txt.gz, *.model"),
        ("hf://org/words", "UsageError: {} has no file of a model: only *.json, *.txt, *.txt.gz, *.model, *.safetens"),
        ("hf://ö/☃", "UsageError: {} is not an address on a hub"),
    ],
)
def test_wrong_address_is_one_sentence(hub, client, clip, address, sentence):
    hub.models |= {"org/private": Repository(private=True), "org/gated": Repository(gated=True)}
    hub.models |= {"org/words": Repository()}
    hub.models["org/gated"].commit({"config.json": b"{}"})
    hub.models["org/words"].commit({"README.md": b"words"})
    said = client(f"jaxrep.load({address!r})")
    assert said.startswith(sentence.format(address, hub=hub.url)) and "\n" not in said


def test_name_without_hf_and_missing_client_say_what_to_write(client, clip, tmp_path, monkeypatch):
    assert client("jaxrep.load('org/clip')") == (
        "UsageError: there is no folder org/clip: if it is the name of a model on a hub, write hf://org/clip"
    )
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"needs huggingface_hub, which is not installed: pip install 'jaxrep\[hub\]'"):
        jaxrep.load("hf://org/clip")


def test_token_opens_a_private_repository_and_is_in_no_word(hub, client, clip, home):
    hub.push(clip, "org/secret")
    hub.models["org/secret"].private = True
    client(f"__import__('os').environ.update(HF_TOKEN='{TOKEN}')")
    try:
        assert client("jaxrep.load('hf://org/secret')").startswith("Model(")
        assert any(authorization == f"Bearer {TOKEN}" for _, _, authorization in hub.requests)
        for wrong in ("hf_wrong" * 5, "hf_bad" * 6 + "é", TOKEN + r"\n\r x"):
            client(f"__import__('os').environ.update(HF_TOKEN='{wrong}')")
            said = client.command("embed", "hf://org/secret@v9", "a.txt", "--out", "b.npz")
            assert said[0] in "12" and len(said[1].strip().splitlines()) == 1 and "hf_wrong" not in said[1]
            assert "hf_bad" not in said[1] and TOKEN not in said[1]
    finally:
        client("__import__('os').environ.pop('HF_TOKEN')")
    for file in home.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_answers_of_a_hub_in_trouble_are_one_sentence(hub, client, clip, home):
    for status, sentence in (
        (
            403,
            "UsageError: {hub} does not let you read hf://org/other (403): set HF_TOKEN, or run `hf auth lo",
        ),
        (500, "JaxrepError: {hub} answered 500, and hf://org/other was not read: try again later"),
    ):
        hub.status = status
        try:
            assert client("jaxrep.load('hf://org/other')").startswith(sentence.format(hub=hub.url))
            # What is in the cache is read all the same.
            assert client("jaxrep.load('hf://org/clip')").startswith("Model(")
        finally:
            hub.status = 0


def test_without_a_network_the_cache_is_read_and_what_is_not_there_is_said(hub, client, clip, home):
    client("jaxrep.load('hf://org/clip')")
    nowhere = "http://127.0.0.1:9"
    for environment, sentence, unwritten in (
        (
            {"HF_ENDPOINT": nowhere},
            f"JaxrepError: {nowhere} cannot be reached, and hf://org/other was not read: try",
            f"JaxrepError: {nowhere} cannot be reached",
        ),
        (
            {"HF_HUB_OFFLINE": "1"},
            "UsageError: hf://org/other was not read: HF_HUB_OFFLINE is set, and the cache",
            "UsageError: org/mine was not written: HF_HUB_OFFLINE is set",
        ),
    ):
        alone = Client(hub, home, **environment)
        try:
            assert alone("jaxrep.load('hf://org/clip')").startswith("Model(")
            assert alone("jaxrep.load('hf://org/other')").startswith(sentence)
            if "HF_ENDPOINT" in environment:
                said = alone("jaxrep.data.parse_source('hf://datasets/org/set/*.tar').open()")
                assert said.startswith("UsageError: the files of hf://datasets/org/set/*.tar cannot be listed (no conn")
                assert said.endswith("try again when there is a network, or name another server by HF_ENDPOINT)")
            assert "is not read: only *.json" in alone("jaxrep.load('hf://org/other/pytorch_model.bin')")
            said = alone(f"jaxrep.hub.upload(__import__('pathlib').Path({str(clip)!r}), 'org/mine')")
            assert said == unwritten or said.startswith(f"{unwritten}, and org/mine was not written: try again when")
        finally:
            alone.close()


def test_full_disk_names_the_cache_and_what_to_do(hub, client, clip):
    """The disk is full at every write of a block of a file that is fetched."""
    hub.push(clip, "org/large")
    full = "OSError(28, 'No space left on device')"
    client("exec('import unittest.mock, huggingface_hub.file_download as f', globals())")
    client(f"globals().update(full=unittest.mock.patch.object(f, 'http_get', side_effect={full})) or full.start()")
    try:
        said = client("jaxrep.load('hf://org/large')")
    finally:
        client("full.stop()")
    assert said.startswith("UsageError: the cache /") and said.endswith(
        "cannot be written (No space left on device), and hf://org/large was not read: make room there, or name "
        "another folder by HF_HOME"
    )
    assert client("jaxrep.load('hf://org/large')").startswith("Model(")


def test_tokenizers_fetch_their_own_files_alone(hub, client, tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    (tmp_path / "model.safetensors").write_bytes(b"large")
    hub.push(tmp_path, "org/tokens")
    hub.requests.clear()
    for address in ("hf://org/tokens", "hf://org/tokens@main/tokenizer.json"):
        made = f"jaxrep.data.TokenizerFile(path={address!r}, entries=3, length=4)"
        assert client(f"{made}.load()(['red fox']).ids.tolist()") == "[[2, 1, 0, 0]]"
    assert client("jaxrep.data.ClipBpe(vocabulary='hf://org/tokens', merges=2).load().state['merges']") == (
        "['r e', 're d</w>']"
    )
    assert hub.fetched() == {"tokenizer.json", "merges.txt"}
    assert client("jaxrep.data.SentencePieceModel(path='hf://org/tokens', entries=3, length=4).load()").startswith(
        "UsageError: there is no file 'hf://org/tokens': it should hold a SentencePiece model"
    )


TRAIN = """
import dataclasses, jax
from jaxrep.recipe import Pretrained
from jaxrep.runs.restore import restore
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE
from tests.helpers.trained_model import CLIP
init = {"image": Pretrained("hf://org/moving", part="image")}
changes = {"method": CLIP, "init": init, "checkpoint.every_steps": 1, "log.tensorboard": False}
recipe = RECIPE.replace(changes, examples=16)

def trained(folder):
    train(recipe, folder, LOADED, devices=jax.devices()[:1])
    return {path: value.sum().item() for path, value in restore(folder).arrays.items()}
"""


@pytest.mark.slow
def test_run_keeps_the_commit_that_it_started_from(hub, client, tmp_path):
    folder(tmp_path / "clip")
    first = hub.push(tmp_path / "clip", "org/moving")
    client(f"exec({TRAIN!r}, globals())")
    arrays = client(f"trained({str(tmp_path / 'run')!r})")
    assert arrays.startswith("{")
    kept, at = tmp_path / "run" / "origins.json", f"hf://org/moving@{first}"
    assert json.loads(kept.read_text()) == {"hf://org/moving": at}
    meta = json.loads((tmp_path / "run" / "checkpoints" / "2" / "meta" / "metadata").read_text())
    assert meta["origins"] == {"hf://org/moving": at}
    # The branch moves. A run that was killed before its first checkpoint starts from the same weights.
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    save_file({name: np.asarray(2 * value) for name, value in weights.items()}, tmp_path / "clip" / "model.safetensors")
    second = hub.push(tmp_path / "clip", "org/moving")
    copied = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    shutil.rmtree(copied / "checkpoints")
    (copied / "results.json").unlink()
    assert client(f"trained({str(copied)!r})") == arrays
    # A new run starts from the new ones.
    assert client(f"trained({str(tmp_path / 'new')!r})") != arrays
    assert json.loads((tmp_path / "new" / "origins.json").read_text()) == {
        "hf://org/moving": f"hf://org/moving@{second}"
    }
    # A run whose record was changed says so, and so does one whose commit is gone.
    (tmp_path / "run" / "results.json").unlink()
    kept.write_text(kept.read_text().replace(first, second))
    said = client(f"trained({str(tmp_path / 'run')!r})")
    assert said.startswith("UsageError: ") and f"origins.hf://org/moving: '{at}' -> 'hf://org/moving@{second}'" in said
    shutil.rmtree(copied / "checkpoints")
    (copied / "results.json").unlink()
    (copied / "origins.json").write_text((copied / "origins.json").read_text().replace(first, "0" * 40))
    assert client(f"trained({str(copied)!r})").startswith(
        f"UsageError: init.image: hf://org/moving@{'0' * 40} names a revision that does not exist"
    )
    for content in ("{}", "[]", '{"hf://org/moving": 3}', "{"):
        (copied / "origins.json").write_text(content)
        said = client(f"trained({str(copied)!r})")
        assert said.startswith("UsageError: ") and "origins.json" in said and "\n" not in said


@pytest.mark.slow
def test_pushed_run_loads_from_the_hub_with_its_card(hub, client, tmp_path):
    run = finished(tmp_path / "run", CLIP, **{"data.train": pairs(tmp_path / "pairs")})
    refused = client.command("export", run, "--to", "safetensors", "--push", "org/mine")
    assert refused[0] == "2" and f"{hub.url} does not let you write org/mine (401): set HF_TOKEN, or run" in refused[1]
    client(f"__import__('os').environ.update(HF_TOKEN='{TOKEN}')")
    try:
        args = ("export", run, "--to", "safetensors", "--push", "org/mine", "--license", "mit")
        for _ in range(2):  # a second time nothing has changed
            status, words = client.command(*args)
            assert status == "0", words
        commit = hub.models["org/mine"].refs["main"]
        assert words.endswith(
            f"uploaded README.md, model.safetensors, recipe.json, tokenizer.json to hf://org/mine@{commit}\n"
        )
        kept = client.command(*args, "--out", tmp_path / "out", "--push", "org/no/name")
        assert kept[0] == "2" and "'org/no/name' names no repository to write to: expected ORG/NAME" in kept[1]
        hub.status = 503
        kept = client.command(*args, "--out", tmp_path / "out")
        assert kept[0] == "1" and f"the export is in {tmp_path / 'out'}, and `hf upload org/mine" in kept[1]
    finally:
        hub.status = 0
        client("__import__('os').environ.pop('HF_TOKEN')")
    files = hub.models["org/mine"].commits[commit]
    card = files["README.md"].decode()
    assert 'license: "mit"' in card and 'model = jaxrep.load("hf://org/mine")' in card
    assert all(TOKEN.encode() not in content for content in files.values())
    ids = [[1, 5, 6, 2, 0, 0]]
    found = client(f"jaxrep.load('hf://org/mine').encode_text(__import__('numpy').array({ids})).tolist()")
    np.testing.assert_array_equal(json.loads(found), load_run(run)[0].encode_text(np.array(ids)))
    changes = "{'method': CLIP, 'init': {'image': From('hf://org/mine')}}"
    starts = f"train(RECIPE.replace({changes}, examples=8), {str(tmp_path / 'next')!r}, LOADED)"
    client(f"exec({TRAIN + 'from jaxrep.recipe import From'!r}, globals())")
    assert client(starts) == "<ExitCode.DONE: 0>"
    assert json.loads((tmp_path / "next" / "origins.json").read_text()) == {"hf://org/mine": f"hf://org/mine@{commit}"}
    table = tmp_path / "texts.txt"
    table.write_text("red fox\n")
    assert client.command("embed", "hf://org/mine", table, "--out", tmp_path / "e.npz")[0] == "0"
    assert f"hf://org/mine@{commit}" in (tmp_path / "e.npz.json").read_text()


def test_data_sets_of_a_hub_are_read_by_the_client_as_well(hub, client):
    hub.datasets["org/pairs"] = Repository()
    hub.datasets["org/pairs"].commit({"a/b.txt": b"red fox"})
    for address in ("hf://datasets/org/pairs/a/b.txt", "hf://datasets/org/pairs@main/a/b.txt"):
        assert client(f"__import__('jaxrep.storage').storage.read_bytes({address!r})") == "b'red fox'"
