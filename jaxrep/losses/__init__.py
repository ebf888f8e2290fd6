"""Compute losses as pure functions of arrays, exact on any mesh."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
