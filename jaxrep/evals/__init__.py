"""Evaluate a model: classification, retrieval, texts, dense prediction and the geometry of embeddings."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
