"""Update parameters: optimizers, exceptions by path, and averages of parameters."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
