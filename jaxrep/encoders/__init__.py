"""Encode images, texts, series and triples into features."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
