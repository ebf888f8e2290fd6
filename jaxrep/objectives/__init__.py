"""Bind losses to the outputs of a method by name; the objective is the weighted sum of its terms."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
