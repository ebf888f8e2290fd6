"""Write the model card of an exported model: README.md with a header that hubs read.

A card states what the run knows: its recipe, its environment, and its measured results. What is unknown is left out.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.encoders.base import Encoder
from jaxrep.errors import printable
from jaxrep.methods.base import Method
from jaxrep.metrics.intervals import bootstrap_interval
from jaxrep.metrics.sample import Sample
from jaxrep.pretrained.stablehlo import inputs_of
from jaxrep.recipe import Recipe
from jaxrep.spec import is_spec, short_repr, type_name, walk

CARD = "README.md"
DATASETS = "hf://datasets/"
MAX_CELL = 300
"""Characters of a value in a table."""

LOADING = {
    "transformers": ("import transformers", 'model = transformers.AutoModel.from_pretrained("{name}")'),
    "open_clip": (
        "import open_clip",
        'model, preprocess = open_clip.create_model_from_pretrained("hf-hub:{name}")',
    ),
}
"""How other libraries load their layout."""


@dataclass(frozen=True)
class Card:
    """Hold what a card is written from."""

    name: str
    """ORG/NAME of the repository, or the name of the folder."""
    layout: str
    """As ``jaxrep export --to`` names it."""
    method: Method
    fields: Mapping[str, Field]
    """Inputs of the model."""
    arrays: Mapping[str, np.ndarray]
    """Parameters by path."""
    recipe: Recipe | None = None
    """None: the model is a public checkpoint."""
    address: str = ""
    """What ``jaxrep.load`` takes; empty if it cannot load the folder."""
    paper: str = ""
    """First line of the experiment's docstring, which names its paper, if it has one."""
    license: str = ""
    results: Mapping[str, float] = field(default_factory=dict)
    """Metrics of these parameters by name."""
    step: int = 0
    """Step of the checkpoint; 0: unknown."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Of the run."""
    towers: Sequence[str] = ()
    """Names of the towers with a program of their own."""
    pad: int | None = None
    """Padding id of the folder's tokenizer.json; None: it has none."""

    def text(self) -> str:
        """Return the card."""
        sections = (self._header(), self._title(), self._usage(), self._data(), self._training(), self._evaluation())
        return printable("\n".join(line for lines in (*sections, self._citation()) for line in lines) + "\n")

    def _header(self) -> Iterator[str]:
        """Yield the YAML header; its values are JSON, which YAML contains."""
        texts = [part for _, part in walk(self.recipe.data.train)] if self.recipe else []
        starts = [part for _, part in walk(self.recipe.init)] if self.recipe else []
        values = {
            "license": self.license,
            "library_name": self.layout if self.layout in LOADING else "jaxrep",
            "pipeline_tag": self._task(),
            "tags": ["jaxrep", "contrastive-learning"],
            "datasets": _repositories(texts, DATASETS),
            "base_model": _repositories(starts, "hf://"),
        }
        yield "---"
        yield from (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value)
        yield "---"

    def _task(self) -> str:
        """Return the hub's name of what the model does, if the fields say it."""
        tasks = {("image", "text"): "zero-shot-image-classification", ("image",): "image-feature-extraction"}
        return {**tasks, ("text",): "feature-extraction"}.get(tuple(sorted(self._encoders())), "")

    def _encoders(self) -> dict[str, Encoder]:
        parts = self.method.parts(self.fields).items()
        return {name: part for name, (part, _) in parts if isinstance(part, Encoder)}

    def _title(self) -> Iterator[str]:
        kind, count = type(self.method).__name__, sum(value.size for value in self.arrays.values())
        yield from ("", f"# {self.name.rpartition('/')[2]}", "")
        yield f"A `{kind}` with {count:,} parameters{', trained by jaxrep' if self.recipe else ''}."
        yield from self._table(("encoder", "input", "parameters", "architecture"), self._towers())

    def _towers(self) -> Iterator[tuple[str, ...]]:
        for name, encoder in self._encoders().items():
            own = sum(value.size for path, value in self.arrays.items() if path.startswith(f"{name}/"))
            shape = " x ".join(map(str, self.fields[name].shape)) if name in self.fields else ""
            yield name, shape, f"{own:,}", f"`{short_repr(encoder, MAX_CELL)}`"

    def _usage(self) -> Iterator[str]:
        lines = []
        if self.address:
            lines += [["import jaxrep", f'model = jaxrep.load("{self.address}")']]
        if self.layout in LOADING and "/" in self.name:
            lines += [[line.format(name=self.name) for line in LOADING[self.layout]]]
        if self.layout == "stablehlo":
            yield from ("", "## Use", "", "Each program of `stablehlo.json` runs with JAX, NumPy and flatbuffers:")
            lines += [list(self._program(tower)) for tower in self.towers]
        elif lines:
            yield from ("", "## Use")
        for block in lines:
            yield from ("", "```python", *block, "```")

    def _program(self, tower: str) -> Iterator[str]:
        """Yield code that runs the program of a tower on inputs as it takes them."""
        inputs = inputs_of(tower, self.fields)
        text = f"{tower}/valid" in inputs
        names = ("ids", "valid") if text else (("images",) if tower == "image" else ("inputs",))
        tokenized, length = text and self.pad is not None, (*self.fields[tower].shape, 1)[0]
        yield f"import jax, numpy{', tokenizers' if tokenized else ''}"
        if tokenized:
            yield 'tokenizer = tokenizers.Tokenizer.from_file("tokenizer.json")'
            yield f"tokenizer.enable_truncation({length})"
            yield f"tokenizer.enable_padding(length={length}, pad_id={self.pad})"
            yield 'rows = tokenizer.encode_batch(["a red fox", "a gray wolf"])'
            yield 'ids = numpy.array([row.ids for row in rows], "int32")'
            yield 'valid = numpy.array([row.attention_mask for row in rows], "bool")'
        else:
            for name, field in zip(names, inputs.values(), strict=True):
                yield f'{name} = numpy.ones({(2, *field.shape)}, "{field.dtype}")  # yours, any number of rows'
        yield f'program = jax.export.deserialize(open("{tower}.stablehlo", "rb").read())'
        yield f'embeddings = program.call(dict(numpy.load("{tower}.npz")), {", ".join(names)})'

    def _data(self) -> Iterator[str]:
        if self.recipe is None:
            return
        yield from ("", "## Training data", "", f"`{short_repr(self.recipe.data.train, MAX_CELL)}`")

    def _training(self) -> Iterator[str]:
        if (recipe := self.recipe) is None:
            return
        length = f"{recipe.examples:,} examples" if recipe.examples else f"{recipe.epochs:g} epochs"
        rows = [("length", length), ("batch size", f"{recipe.data.batch_size:,}"), ("seed", str(recipe.seed))]
        rows += [("steps of these weights", f"{self.step:,}")] if self.step else []
        named = {name: getattr(recipe, name) for name in ("method", "objective", "views", "optimizer", "schedule")}
        named |= {"tokenizer": recipe.data.tokenizer, "order": recipe.data.order, "average": recipe.ema}
        named |= {f"start of {path}": origin for path, origin in recipe.init.items()}
        rows += [(name, f"`{short_repr(part, MAX_CELL)}`") for name, part in named.items() if part or is_spec(part)]
        devices, versions = (self.environment.get(name) or {} for name in ("devices", "versions"))
        if devices.get("kind") and devices.get("count"):
            rows.append(("devices", f"{devices['count']} x {devices['kind']}"))
        rows += [(name, str(versions[name])) for name in ("jaxrep", "jax") if versions.get(name)]
        yield from ("", "## Training")
        yield from self._table(("", ""), rows)

    def _evaluation(self) -> Iterator[str]:
        if self.recipe is None or not (known := {k: v for k, v in self.results.items() if math.isfinite(v)}):
            return
        rows = []
        for name, value in sorted(known.items()):
            bounds = bootstrap_interval(value) if isinstance(value, Sample) and len(value.values) else None
            rows.append((f"`{name}`", f"{value:.4g}", f"{bounds.low:.4g} to {bounds.high:.4g}" if bounds else ""))
        yield from ("", "## Evaluation")
        yield from self._table(("metric", "value", "95% interval"), rows)
        evals = [(f"`{each.name}`", f"`{short_repr(each, MAX_CELL)}`") for each in self.recipe.evals]
        yield from self._table(("evaluation", "protocol"), evals)

    def _citation(self) -> Iterator[str]:
        if re.search(r"arXiv:|[(,] ?(19|20)\d\d", self.paper):
            yield from ("", "## Citation", "", f"Please cite the paper of the recipe: {self.paper}")

    @staticmethod
    def _table(header: Sequence[str], rows: Any) -> Iterator[str]:
        """Yield a table, if it has rows."""
        rows = list(rows)
        for row in (header, ["---"] * len(header), *rows) if rows else ():
            cells = (" ".join(str(cell).split()).replace("|", "\\|") for cell in row)
            yield from ([""] if row is header else [])
            yield f"| {' | '.join(cells)} |"


def needs_experiment(recipe: Recipe) -> bool:
    """Return whether parts of a recipe are defined in its experiment file, which is not exported."""
    return any(is_spec(part) and type_name(type(part)).startswith("experiment:") for _, part in walk(recipe))


def _repositories(values: Sequence[Any], prefix: str) -> list[str]:
    """Return the names ORG/NAME of the addresses among some values, in order."""
    found = [value.removeprefix(prefix) for value in values if isinstance(value, str) and value.startswith(prefix)]
    names = ["/".join(name.partition("@")[0].split("/")[:2]) for name in found]
    return list(dict.fromkeys(names))
