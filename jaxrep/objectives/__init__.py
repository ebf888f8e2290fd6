"""Bind losses to the outputs of a method by name; the objective is the weighted sum of its terms."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
