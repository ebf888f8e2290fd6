"""Measure arrays: pure functions that training, evaluations and the report share."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
