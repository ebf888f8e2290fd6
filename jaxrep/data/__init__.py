"""Read data: sources of every format, orders, transforms of sources, tokenizers, and the embedded data."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
