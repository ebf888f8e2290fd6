"""Wire encoders, heads and state into what a training step computes."""

from jaxrep.lazy_exports import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
