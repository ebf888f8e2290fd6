"""Read data: sources of every format, orders, transforms of sources, tokenizers, and the embedded data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
