"""Folders of sentence-transformers: an encoder, its pooling, and an optional dense layer.

``modules.json`` lists the modules. Supported are a Transformer, its Pooling, at most one Dense, and Normalize, which
``encode`` does anyway.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.errors import UsageError
from jaxrep.methods.heads import Linear, Tanh
from jaxrep.pretrained import bert, modernbert, nomic
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.mapping import linear
from jaxrep.pretrained.tensors import Tensors, open_folder, read_json

MODULES = "modules.json"
ORDER = ("Transformer", "Pooling", "Dense", "Normalize")

FAMILIES = {**dict.fromkeys(bert.VARIANTS, bert), "modernbert": modernbert, "nomic_bert": nomic}
"""Modules that read an encoder of sentences, by the ``model_type`` of its config.json."""

IDENTITY, TANH = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Tanh"


def open_modules(folder: Path) -> tuple[Source, Callable[[Source], Architecture]]:
    """Open a folder, and return it with its reader.

    Raises:
        UsageError: modules.json lists other modules, or a file is missing.
    """
    modules = _modules(folder / MODULES)
    encoder = modules["Transformer"]
    config, tensors = Config(read_json(encoder / "config.json"), encoder / "config.json"), open_folder(encoder)
    if "Dense" in modules:
        tensors = Tensors({**tensors.entries, **open_folder(modules["Dense"]).entries}, tensors.where)
    return Source(encoder, config, tensors, None), functools.partial(read, modules=modules)


def _modules(file: Path) -> dict[str, Path]:
    """Return the folder of each module by its kind."""
    entries = read_json(file, list)
    try:
        kinds = [entry["type"].split(".")[-1] for entry in entries]
        folders = {kind: file.parent / entry["path"] for kind, entry in zip(kinds, entries, strict=True)}
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{file} should list modules, each an object with its 'type' and its 'path'") from None
    if kinds != [kind for kind in ORDER if kind in kinds or kind in ORDER[:2]]:
        raise UsageError(
            f"{file} lists the modules {', '.join(kinds) or 'of none'}, expected a Transformer and its Pooling, then "
            "at most one Dense, then Normalize"
        )
    return folders


def read(source: Source, modules: Mapping[str, Path]) -> Architecture:
    """Read the encoder by its own layout, with the changes of the other modules."""
    kind = str(source.config.values.get("model_type"))
    if kind not in FAMILIES:
        raise UsageError(
            f"{source.config.file}: sentences are encoded by the model_type '{kind}', expected one of "
            f"{', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    _refuse_prompt(modules["Pooling"].parent / "config_sentence_transformers.json")
    tower = family.read_tower(source, _pool(modules["Pooling"] / "config.json"))
    tower = dataclasses.replace(tower, tokenizer=_tokenizer(source.folder, tower))
    if "Dense" in modules:
        tower = _with_dense(tower, modules["Dense"] / "config.json")
    return single("text", tower, source.prefix(*family.PREFIXES), family.IGNORED)


def _pool(file: Path) -> bert.Pool:
    """Return the pooling; files of version 5 and older have flags, such as ``pooling_mode_mean_tokens``."""
    values = read_json(file)
    flags = [name.split("_")[2] for name, chosen in values.items() if name.startswith("pooling_mode_") and chosen]
    stated = values.get("pooling_mode") or flags
    match [stated] if isinstance(stated, str) else stated:
        case [("cls" | "mean") as pool]:
            return pool
        case names:
            names = " and ".join(map(str, names)) or "nothing"
            raise UsageError(f"{file} pools by {names}, expected the first token (cls) or the mean")


def _tokenizer(folder: Path, tower: Tower) -> TokenizerFile | None:
    """Return the encoder's tokenizer, with the text length and the casing of the sentence file."""
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
    """Return the tower with its dense module as its head."""
    config = Config({"bias": True, "activation_function": TANH, **read_json(file)}, file)
    config.expect(in_features=tower.encoder.features, module_input_name="sentence_embedding")
    activation = config.choice("activation_function", (IDENTITY, TANH))
    kind, name = (Linear, "") if activation == IDENTITY else (Tanh, "linear")
    head = kind(features=config.whole("out_features"), bias=config.flag("bias"))
    return dataclasses.replace(tower, head=head, projection=linear("linear", name))


def _refuse_prompt(file: Path) -> None:
    """Refuse a default prompt, which would not be added to texts."""
    if file.is_file() and (name := read_json(file).get("default_prompt_name")):
        raise UsageError(
            f"{file}: 'default_prompt_name' is {name!r}, and prompts are not added to texts: set it to null, and "
            "write the prompt before each text"
        )
