"""Emoji: retrieval and zero-shot classification of held-out OpenMoji pictures, the data that come with jaxrep.

``jaxrep eval RUN --evals emoji`` measures a model of images and texts. Retrieval is measured on both splits: unseen
combinations of known words, and a random tenth of the pictures. Zero-shot classification is measured on the random one,
since the other one holds out pictures of one group. ``tiny`` measures retrieval on the first alone.

``jaxrep eval RUN --evals emoji:tiny`` takes some seconds on two cores for a run of ``clip:tiny``.
"""

from dataclasses import replace

from experiments import common

tiny = common.classify(common.emoji("test"))

retrieval, zero_shot = common.classify(common.emoji("test", split="random"))
random = (replace(retrieval, name="random/retrieval"), zero_shot)

evals = (*tiny, random[0])
