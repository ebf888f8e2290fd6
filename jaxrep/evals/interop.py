"""A jaxrep model in others' benchmarks: MTEB's encoder protocol and CLIP_benchmark's (extra: mteb).

Both hand over and take PyTorch's tensors, so they bring PyTorch; it is imported here and nowhere else, where a tensor
is made. ``docs/evaluation.md`` has the calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrep.errors import UsageError
from jaxrep.metrics.ranking import unit_rows
from jaxrep.model import Model

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

UNKNOWN = (
    *("release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens", "embed_dim", "license"),
    *("open_weights", "public_training_code", "public_training_data", "training_datasets"),
)
"""What mteb's ModelMeta asks for and a run does not say."""


class MtebEncoder:
    """A model as ``mteb.evaluate(MtebEncoder(model), tasks)`` takes it (mteb 2's EncoderProtocol)."""

    def __init__(
        self,
        model: Model,
        name: str = "jaxrep/model",
        *,
        revision: str = "local",
        prompts: Mapping[str, str] | None = None,
        text: str = "text",
        image: str = "image",
    ):
        """
        Args:
            name: how results are filed, "organization/model".
            revision: which weights, for the same purpose.
            prompts: what is put before a text, by the type of prompt: {"query": "query: ", "document": "passage: "}.
            text, image: the model's towers.
        """
        self._model, self._name, self._revision = model, name, revision
        self._prompts, self._text, self._image = dict(prompts or {}), text, image

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's ModelMeta: the name, and that similarity is the cosine; the rest is not known of a run."""
        from mteb.models import ModelMeta  # pyright: ignore[reportMissingImports]

        return ModelMeta(
            loader=None,
            name=self._name,
            revision=self._revision,
            framework=[],
            similarity_fn_name="cosine",
            use_instructions=bool(self._prompts),
            modalities=[kind for kind, tower in (("text", self._text), ("image", self._image)) if self._has(tower)],
            **dict.fromkeys(UNKNOWN),
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embeddings float32 [N,D], rows of unit length, of mteb's batches: ``text``, ``image``, or both, whose
        embeddings are added. What else mteb says of the task changes nothing here.

        Raises UsageError: a batch holds neither.
        """
        prompt = self._prompts.get(str(getattr(prompt_type, "value", prompt_type)), "")
        return np.concatenate([self._batch(batch, prompt) for batch in inputs])

    def _batch(self, batch: Mapping[str, Any], prompt: str) -> np.ndarray:
        parts = []
        if batch.get("text") is not None:
            parts.append(self._model.encode_text([prompt + text for text in batch["text"]], self._text))
        if batch.get("image") is not None:
            parts.append(self._model.encode_image([one.convert("RGB") for one in batch["image"]], self._image))
        if not parts:
            raise UsageError(f"a model here reads texts and pictures, and the task gives {', '.join(batch)}")
        return parts[0] if len(parts) == 1 else _unit(parts[0] + parts[1])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines [N,M]."""
        return _tensor(_unit(_array(embeddings1)) @ _unit(_array(embeddings2)).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Cosines [N] of rows that belong together."""
        return _tensor(np.einsum("nd,nd->n", _unit(_array(embeddings1)), _unit(_array(embeddings2))))

    def _has(self, tower: str) -> bool:
        return tower in self._model.fields


class ClipBenchmark:
    """A model as the functions of ``clip_benchmark.metrics`` take it; it is its own tokenizer and transform.

    ``zeroshot_retrieval.evaluate(adapter, loader, adapter.tokenize, device="cpu", amp=False)``, with a loader over a
    data set whose ``transform`` is ``adapter.transform``.
    """

    def __init__(self, model: Model, *, text: str = "text", image: str = "image"):
        self._model, self._text, self._image = model, text, image

    def eval(self) -> "ClipBenchmark":
        return self

    def to(self, device: Any) -> "ClipBenchmark":
        """Nothing: the model stays where JAX has it."""
        return self

    def transform(self, picture: Any) -> "torch.Tensor":
        """uint8 [H,W,3] of a PIL image, as the model sees it."""
        return _tensor(self._model.preprocess(picture.convert("RGB"), self._image))

    def tokenize(self, texts: Sequence[str]) -> "torch.Tensor":
        """Ids [n,2L]: token ids, then which of them are no padding."""
        found = self._model.tokenize(texts)
        return _tensor(np.concatenate([found["text"], found["text/valid"]], axis=1).astype(np.int64))

    def encode_image(self, pictures: Any) -> "torch.Tensor":
        """float32 [n,D] of what ``transform`` gave."""
        return _tensor(self._model.encode_image(_array(pictures), self._image))

    def encode_text(self, tokens: Any) -> "torch.Tensor":
        """float32 [n,D] of what ``tokenize`` gave."""
        ids, valid = np.split(_array(tokens), 2, axis=1)
        return _tensor(self._model.encode_text(ids, self._text, valid=valid.astype(bool)))


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def _tensor(x: np.ndarray) -> "torch.Tensor":
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_numpy(np.array(x))  # a copy: JAX gives arrays that cannot be written to


def _unit(x: np.ndarray) -> np.ndarray:
    return unit_rows(np.atleast_2d(x).astype(np.float32))
