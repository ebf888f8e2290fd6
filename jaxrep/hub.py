"""Models on a hub: ``hf://ORG/NAME@REVISION`` becomes a local folder, and a folder becomes a repository.

huggingface_hub is the client (extra ``hub``). Its settings apply: ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_OFFLINE``, and
its tokens. Its messages are not passed on, since they may quote what was sent.
"""

import contextlib
import fnmatch
import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from jaxrep.errors import JaxrepError, UsageError, disk_fault
from jaxrep.extras import import_extra

PREFIX = "hf://"
TOKENIZER_FILES = ("*.json", "*.txt", "*.txt.gz", "*.model")
MODEL_FILES = (*TOKENIZER_FILES, "*.safetensors")
"""Files that are fetched: no pickles, and no code."""
UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".onnx", ".gguf", ".npz", ".py")
"""Ends of files that are never fetched."""
NO_NETWORK = (
    "try again when there is a network, name another server by HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to read the cache "
    "alone"
)
LOG_IN = "set HF_TOKEN, or run `hf auth login`"


def is_hub(place: str | PathLike[str]) -> bool:
    """Return whether a place is an address on a hub."""
    return str(place).startswith(PREFIX)


def local_path(place: str | PathLike[str], files: Sequence[str] = MODEL_FILES) -> Path:
    """Return the local folder or file of an address on a hub; any other place is returned as a path.

    A path may follow the repository: ``hf://ORG/NAME@REVISION/tokenizer.json``.

    Args:
        place: an address or a path.
        files: patterns of the files that are fetched.

    Raises:
        UsageError: there is no such repository, revision or file, or access is denied.
        JaxrepError: the hub cannot be reached.
    """
    if not is_hub(place):
        return Path(place)
    client, address = import_extra("huggingface_hub", "hub"), _parse(str(place))
    if address.path_in_repo.lower().endswith(UNREAD):
        raise UsageError(f"{place} is not read: only {', '.join(files)} are fetched")
    below, chosen = glob.escape(address.path_in_repo), list(files)
    if below:
        named = any(fnmatch.fnmatch(address.path_in_repo, pattern) for pattern in files)
        chosen = [below] if named else [f"{below}/{pattern}" for pattern in files]
    with _explained(str(place), "read"):
        folder = client.snapshot_download(address.id, revision=address.revision, allow_patterns=chosen)
    if not (path := Path(folder, address.path_in_repo)).exists():
        kinds = f"'{address.path_in_repo}'" if below else "file of a model"
        raise UsageError(f"{place} has no {kinds}: only {', '.join(files)} are fetched")
    return path


def at_commit(place: str) -> str:
    """Return an address with the commit that its revision names now. Raises UsageError and JaxrepError."""
    client, address = import_extra("huggingface_hub", "hub"), _parse(place)
    with _explained(place, "read"):
        commit = client.HfApi().resolve_revision(address.id, revision=address.revision).resolved
    return _address(address.id, commit, address.path_in_repo)


def address_of(folder: Path) -> str:
    """Return the address at its commit of a folder in the client's cache; empty for any other folder."""
    found = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/(.*))?$", folder.absolute().as_posix())
    return _address(f"{found[1]}/{found[2]}", found[3], found[4] or "") if found else ""


def upload(folder: Path, repository: str) -> str:
    """Upload a folder to a repository ORG/NAME, which is created if it does not exist; return its address.

    Raises:
        UsageError: the name is not valid, or access is denied.
        JaxrepError: the hub cannot be reached.
    """
    client = import_extra("huggingface_hub", "hub")
    with _explained(repository, "write"):
        client.create_repo(repository, exist_ok=True)
        message = f"Upload of {', '.join(sorted(file.name for file in folder.iterdir()))}"
        commit = client.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return _address(repository, commit.oid, "")


def check_repository(repository: str) -> None:
    """Check the name of a repository to write to. Raises UsageError."""
    address = _parse(PREFIX + repository.removeprefix(PREFIX))
    if repository != address.id:
        raise UsageError(f"'{repository}' names no repository to write to: expected ORG/NAME")


def _parse(place: str) -> Any:
    """Return the client's parts of the address of a model: ``id``, ``revision`` and ``path_in_repo``."""
    utils, errors = (import_extra(f"huggingface_hub.{name}", "hub") for name in ("utils", "errors"))
    expected = "expected hf://ORG/NAME or hf://ORG/NAME@REVISION"
    try:
        address = utils.parse_hf_uri(place)
    except (errors.HfUriError, errors.HFValidationError):
        raise UsageError(f"{place} is not an address on a hub: {expected}") from None
    if address.type != "model":
        raise UsageError(f"{place} is a {address.type} and not a model: {expected}")
    if ".." in Path(address.path_in_repo).parts:
        raise UsageError(f"{place} leaves its repository: {expected}")
    return address


def _address(repository: str, revision: str, path: str) -> str:
    return f"{PREFIX}{repository}@{revision}" + (f"/{path}" if path else "")


@contextlib.contextmanager
def _explained(place: str, verb: str) -> Iterator[None]:
    """Turn an error of the client into one sentence; ``verb`` is read or write."""
    errors = import_extra("huggingface_hub.errors", "hub")
    try:
        yield
    except Exception as error:  # what is no hub is answered by errors of many types
        # A fallback to the cache hides the answer of the hub. Causes are cut off, since they may quote the token.
        cause: Any = error.__cause__
        raise _sentence(cause if isinstance(cause, errors.HfHubHTTPError) else error, place, verb) from None


def _sentence(error: Exception, place: str, verb: str) -> JaxrepError:
    errors, constants = (import_extra(f"huggingface_hub.{name}", "hub") for name in ("errors", "constants"))
    hub, status = constants.ENDPOINT, getattr(getattr(error, "response", None), "status_code", 0)
    page = "/".join([hub, *place.removeprefix(PREFIX).partition("@")[0].split("/")[:2]])
    refusals: Mapping[Any, str] = {
        errors.RevisionNotFoundError: "names a revision that does not exist: give a branch, a tag or a commit",
        errors.GatedRepoError: f"is gated: ask for access at {page}, and {LOG_IN}",
        errors.DisabledRepoError: f"was disabled by {hub}: take another model",
        errors.RepositoryNotFoundError: f"does not exist on {hub}, or is private: check the name, or {LOG_IN}",
    }
    if refusal := next((text for kind, text in refusals.items() if isinstance(error, kind)), ""):
        return UsageError(f"{place} {refusal}")
    if status in (401, 403):
        return UsageError(f"{hub} does not let you {verb} {place} ({status}): {LOG_IN}, with a token that may do it")
    undone = f"{place} was not {'read' if verb == 'read' else 'written'}"
    if status:
        return JaxrepError(f"{hub} answered {status}, and {undone}: try again later")
    if constants.HF_HUB_OFFLINE:
        absent = f", and the cache {constants.HF_HUB_CACHE} does not hold it" if verb == "read" else ""
        return UsageError(f"{undone}: HF_HUB_OFFLINE is set{absent}")
    if isinstance(error, errors.HTTPError | errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        return JaxrepError(f"{hub} cannot be reached, and {undone}: {NO_NETWORK}")
    if fault := disk_fault(error):
        cache = f"the cache {constants.HF_HUB_CACHE} cannot be written ({fault})"
        return UsageError(f"{cache}, and {undone}: make room there, or name another folder by HF_HOME")
    return UsageError(f"{undone} ({type(error).__name__}): check its name, and HF_ENDPOINT, which is {hub}")
