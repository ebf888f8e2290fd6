"""MoCHi: hard negative mixing for contrastive learning (Kalantidis et al. 2020, arXiv:2010.01028).

MoCo v2, and for each query, of its N nearest keys s mixtures of two and s' of a key and the query, as more negatives of
that query alone. Official code is not public: the mixtures are those on which davidsvy/hard-negative-mixing
(src/moco.py) and giakoumoglou/synco (synco/builder.py) agree, which draw both keys independently. The paper's
(N, s, s') = (1,024, 1,024, 128) is from memory and could not be checked. That there are no mixtures in the first 10
epochs was read in synco (main_synco.py), which also has N = 1,024. All else is as in moco.py.

``jaxrep train mochi:tiny`` takes about 2 minutes on two cores, beside ``moco:tiny``, which has no mixtures.
"""

from experiments.vision import moco
from jaxrep import objectives

EPOCH = 1_281_167 // 256  # steps of an epoch of ImageNet


def mixing(nearest: int, mixed: int, with_query: int, start: int) -> dict[str, objectives.Term]:
    """Return MoCo's loss with (N, s, s') and the step at which the mixtures begin."""
    term = objectives.Contrastive("a", "b/target", extra_b="queue", direction="a_to_b", in_batch=False)
    return {
        "mochi": objectives.HardMixtures(term, nearest=nearest, mixed=mixed, with_query=with_query, start=start),
    }


recipe = moco.recipe.replace(objective=mixing(1_024, 1_024, 128, start=10 * EPOCH))

# An eighth of moco.tiny's keys are near; mixtures begin when the queue holds keys alone.
tiny = moco.tiny.replace(objective=mixing(128, 128, 16, start=20))
