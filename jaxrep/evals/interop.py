"""Adapters of a model for other benchmarks: MTEB's encoder protocol and CLIP_benchmark's functions (extra: mteb).

Both exchange PyTorch tensors. PyTorch is imported only where a tensor is made. ``docs/evaluation.md`` has the calls.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from jaxrep.errors import UsageError
from jaxrep.evals.base import Model
from jaxrep.metrics.ranking import unit_rows
from jaxrep.model_inputs import check_images, check_texts

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

UNKNOWN = (
    *("release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens", "embed_dim", "license"),
    *("open_weights", "public_training_code", "public_training_data", "training_datasets"),
)
"""Fields of mteb's ModelMeta that are not known of a run."""


class MtebEncoder:
    """Adapt a model to mteb 2's EncoderProtocol, for ``mteb.evaluate(MtebEncoder(model), tasks)``."""

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
        """Name the model and its towers.

        Args:
            model: The model.
            name: Name in the results, "organization/model".
            revision: Version of the weights in the results.
            prompts: Text before each text, by type of prompt: {"query": "query: ", "document": "passage: "}.
            text: The model's tower for texts.
            image: The model's tower for images.
        """
        self._model, self._name, self._revision = model, name, revision
        self._prompts, self._towers = prompts or {}, {"text": text, "image": image}

    @property
    def mteb_model_meta(self) -> Any:
        """Return mteb's ModelMeta: the name, and cosine similarity. Other facts are not known of a run."""
        from mteb.models import ModelMeta  # pyright: ignore[reportMissingImports]

        return ModelMeta(
            loader=None,
            name=self._name,
            revision=self._revision,
            framework=[],
            similarity_fn_name="cosine",
            use_instructions=bool(self._prompts),
            modalities=[kind for kind, tower in self._towers.items() if tower in self._model.fields],
            **dict.fromkeys(UNKNOWN),
        )

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> np.ndarray:
        """Embed mteb's batches of ``text``, ``image``, or both: unit rows float32 [N,D].

        Embeddings of texts and images are added. The other arguments have no effect.

        Raises UsageError: A batch holds neither.
        """
        prompt = self._prompts.get(str(getattr(prompt_type, "value", prompt_type)), "")
        return np.concatenate([self._batch(batch, prompt) for batch in inputs])

    def _batch(self, batch: Mapping[str, Any], prompt: str) -> np.ndarray:
        if not isinstance(batch, Mapping):
            raise UsageError(
                f"inputs holds a {type(batch).__name__}, expected batches {{'text': [...], 'image': [...]}}"
            )
        parts = []
        if batch.get("text") is not None:
            check_texts(batch["text"], "text")
            parts.append(self._model.encode_text([prompt + text for text in batch["text"]], self._towers["text"]))
        if batch.get("image") is not None:
            check_images(batch["image"])
            parts.append(self._model.encode_image([_rgb(image) for image in batch["image"]], self._towers["image"]))
        if not parts:
            raise UsageError(f"the model reads texts and images, and the task gives {', '.join(batch)}")
        return parts[0] if len(parts) == 1 else _unit(parts[0] + parts[1])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Return cosines [N,M]."""
        return _tensor(_unit(embeddings1) @ _unit(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> "torch.Tensor":
        """Return cosines [N] of paired rows."""
        return _tensor(np.einsum("nd,nd->n", _unit(embeddings1), _unit(embeddings2)))


class ClipBenchmark:
    """Adapt a model to the functions of ``clip_benchmark.metrics``. It is the tokenizer and the transform as well.

    ``zeroshot_retrieval.evaluate(adapter, loader, adapter.tokenize, device="cpu", amp=False)``, with a loader over a
    data set whose ``transform`` is ``adapter.transform``.
    """

    def __init__(self, model: Model, *, text: str = "text", image: str = "image"):
        self._model, self._text, self._image = model, text, image

    def eval(self) -> "ClipBenchmark":
        return self

    def to(self, device: Any) -> "ClipBenchmark":
        """Do nothing: the model stays on its JAX devices."""
        return self

    def transform(self, image: Any) -> "torch.Tensor":
        """Convert a PIL image to the model's input, uint8 [H,W,3]."""
        return _tensor(self._model.preprocess(_rgb(image), self._image))

    def tokenize(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return ids [n,2L]: token ids, then 1 per token and 0 per padding."""
        tokens = self._model.tokenize(texts)
        return _tensor(np.concatenate([tokens["text"], tokens["text/valid"]], axis=1).astype(np.int64))

    def encode_image(self, images: Any) -> "torch.Tensor":
        """Embed the results of ``transform``: float32 [n,D]."""
        return _tensor(self._model.encode_image(_array(images), self._image))

    def encode_text(self, tokens: Any) -> "torch.Tensor":
        """Embed the result of ``tokenize``: float32 [n,D]."""
        tokens = _array(tokens)
        if tokens.ndim != 2 or tokens.shape[1] % 2 or tokens.dtype.kind not in "iu":
            raise UsageError(f"tokens is an array of shape {tokens.shape}, expected the result of tokenize, [n,2L]")
        ids, valid = np.split(tokens, 2, axis=1)
        return _tensor(self._model.encode_text(ids, self._text, valid=valid.astype(bool)))


def _rgb(image: Any) -> Any:
    return image.convert("RGB") if isinstance(image, Image.Image) else image


def _array(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def _tensor(x: np.ndarray) -> "torch.Tensor":
    import torch  # pyright: ignore[reportMissingImports]

    return torch.from_numpy(np.array(x))  # a copy: arrays from JAX are read-only


def _unit(x: Any) -> np.ndarray:
    return unit_rows(np.atleast_2d(_array(x)).astype(np.float32))
