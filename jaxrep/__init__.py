"""Large-scale contrastive pretraining of representations in JAX and Flax.

``jaxrep.train``, ``evaluate``, ``embed``, ``open_run`` and ``load`` are the front door; recipes are written with
``Recipe``, ``Data``, ``From`` and ``Pretrained`` and the rooms (``encoders``, ``methods``, ``objectives``, ...). All
names load when they are first used: ``import jaxrep`` imports neither JAX nor a room.
"""

from jaxrep.lazy_exports import attach

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
