"""A folder of sentence-transformers: an encoder, how its tokens become one vector, and what follows.

``modules.json`` lists the modules. Those that are read: a Transformer, its Pooling, at most one Dense, and Normalize,
which says what ``encode`` does anyway.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.errors import UsageError
from jaxrep.methods.heads import Linear, Tanh
from jaxrep.pretrained import bert
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, single
from jaxrep.pretrained.mapping import linear
from jaxrep.pretrained.tensors import Tensors, open_folder, read_json

MODULES = "modules.json"
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")

POOLS: Mapping[str, Literal["cls", "mean"]] = {
    "cls": "cls",
    "mean": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
}
"""A new file names its poolings, one of version 5 or older has a flag for each."""

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


def open_modules(folder: Path) -> tuple[Source, Callable[[Source], Architecture]]:
    """What lies in the folder, and what reads it. Raises UsageError."""
    modules = _modules(folder / MODULES)
    encoder = modules["Transformer"]
    config, tensors = Config(read_json(encoder / "config.json"), encoder / "config.json"), open_folder(encoder)
    if "Dense" in modules:
        tensors = Tensors({**tensors.entries, **open_folder(modules["Dense"]).entries}, tensors.where)
    return Source(encoder, config, tensors, None), functools.partial(read, modules=modules)


def _modules(file: Path) -> dict[str, Path]:
    """The folder of each module by its kind."""
    stated = read_json(file, list)
    try:
        found = {entry["type"].split(".")[-1]: file.parent / entry["path"] for entry in stated}
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{file} should list modules, each an object with its 'type' and its 'path'") from None
    if len(found) < len(stated) or list(found) != [kind for kind in ORDER if kind in found or kind in ORDER[:2]]:
        kinds = ", ".join(str(entry["type"]).split(".")[-1] for entry in stated)
        raise UsageError(
            f"{file} lists the modules {kinds or 'of none'}, and what can be read is a Transformer and its Pooling, "
            "then at most one Dense, then Normalize"
        )
    return found


def read(source: Source, modules: Mapping[str, Path]) -> Architecture:
    """The encoder as its own layout says, with what the other modules add."""
    kind = str(source.config.values.get("model_type"))
    if kind not in bert.TOWERS:
        raise UsageError(
            f"{source.config.file}: sentences are encoded by the model_type '{kind}', and those that can be read are "
            f"{', '.join(bert.TOWERS)}"
        )
    _no_prompt(modules["Pooling"].parent / "config_sentence_transformers.json")
    tower = bert.TOWERS[kind](source, _pool(modules["Pooling"] / "config.json"))
    tower = dataclasses.replace(tower, tokenizer=_tokenizer(source.folder, tower))
    if "Dense" in modules:
        tower = _with_dense(tower, modules["Dense"] / "config.json")
    return single("text", tower, source.below(*bert.PREFIXES), bert.IGNORED)


def _pool(file: Path) -> Literal["cls", "mean"]:
    """Which pooling a file of either kind names."""
    values = read_json(file)
    flags = [name for name, chosen in values.items() if name.startswith("pooling_mode_") and chosen]
    stated = values.get("pooling_mode") or flags
    names = [stated] if isinstance(stated, str) else list(stated)
    if len(names) != 1 or names[0] not in POOLS:
        raise UsageError(
            f"{file} pools by {' and '.join(map(str, names)) or 'nothing'}, and what can be read is the first token "
            "(cls) or the mean"
        )
    return POOLS[names[0]]


def _tokenizer(folder: Path, tower: Tower) -> TokenizerFile | None:
    """The encoder's, of texts as long as the sentences' own file says."""
    if not isinstance(tower.tokenizer, TokenizerFile):
        return None
    file = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    config = Config(read_json(file) if file else {}, file or folder)
    changes: dict[str, Any] = {}
    if config.values.get("max_seq_length") is not None:
        changes["length"] = min(config.whole("max_seq_length"), tower.field.shape[0])
    if config.values.get("do_lower_case"):
        changes["clean"] = "lower"
    return dataclasses.replace(tower.tokenizer, **changes)


def _with_dense(tower: Tower, file: Path) -> Tower:
    """The tower with its dense module as its head."""
    config = Config({"bias": True, "activation_function": TANH, **read_json(file)}, file)
    config.expect(in_features=tower.encoder.features, module_input_name="sentence_embedding")
    features, bias, activation = config.whole("out_features"), config.flag("bias"), config.values["activation_function"]
    if activation not in (IDENTITY, TANH):
        raise UsageError(f"{file}: 'activation_function' is {activation!r}, and {IDENTITY} and {TANH} are known")
    if activation == IDENTITY:
        return dataclasses.replace(tower, head=Linear(features=features, bias=bias), projection=linear("linear", ""))
    return dataclasses.replace(tower, head=Tanh(features=features, bias=bias), projection=linear("linear", "linear"))


def _no_prompt(file: Path) -> None:
    """A prompt before every text would be left out, unseen."""
    if file.is_file() and (name := read_json(file).get("default_prompt_name")):
        raise UsageError(
            f"{file}: 'default_prompt_name' is {name!r}, and prompts are not added to texts: set it to null, and "
            "write the prompt before each text"
        )
