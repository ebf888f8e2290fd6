"""Emoji: retrieval and zero-shot classification of held-out OpenMoji pictures, the data that come with jaxrep.

``jaxrep eval RUN --evals emoji`` measures a model of images and texts on both splits: unseen combinations of known
words, and a random tenth of the pictures. ``tiny`` measures the first.

``jaxrep eval RUN --evals emoji:tiny`` takes some seconds on two cores for a run of ``clip:tiny``.
"""

from dataclasses import replace

from experiments import common

tiny = common.classify(common.emoji("test"))

random = tuple(
    replace(evaluation, name=f"random/{evaluation.name}")
    for evaluation in common.classify(common.emoji("test", split="random"))
)

evals = (*tiny, *random)
