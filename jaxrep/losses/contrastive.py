"""InfoNCE: each row is classified among the rows of the other side (van den Oord et al., 2018, arXiv:1807.03748).

With both directions it is the loss of CLIP (Radford et al., 2021, arXiv:2103.00020, figure 3) and of ALIGN (Jia et
al., 2021, arXiv:2102.05918, equations 1 and 2). ``plain_info_nce`` is the loss in its simplest form; ``info_nce`` is
the same number in memory linear in the batch, on any mesh, with the options of recipes.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks, pairs
from jaxrep.losses.pairwise.pairs import DEFAULTS, Duplicates, PairOptions, Side
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP, LOG_ZERO, MAX, SUM, Included, Reduction

Direction = Literal["mean", "sum", "a_to_b", "b_to_a"]


def plain_info_nce(a: Float[Array, "B D"], b: Float[Array, "B D"], logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Return the mean of both directions, from the whole matrix of logits: the form to read and to compare with."""
    logits = logit_scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    a_to_b = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    b_to_a = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return -jnp.mean(a_to_b + b_to_a) / 2


def info_nce(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    logit_scale: Float[Array, ""] | float,
    options: PairOptions = DEFAULTS,
    *,
    direction: Direction = "mean",
    label_smoothing: float = 0.0,
    in_batch: bool = True,
    same_side: bool = False,
    decoupled: bool = False,
) -> Float[Array, ""]:
    """Return the cross-entropy of row i of b among all rows of b, given row i of a, and the reverse.

    Memory is linear in B. Under an ambient mesh the axes ``data`` and ``fsdp`` shard the rows, and this is still the
    loss of the global batch.

    Args:
        a: normalized rows, one side of B pairs.
        b: normalized rows, the other side.
        logit_scale: inverse temperature that multiplies the cosines.
        options: ids, weights, extra negatives and so on. ``duplicates``: ``negative`` treats them as all other rows.
            ``ignore`` removes them from the candidates. With ``supcon`` they share the target, whose log-probabilities
            are averaged (Khosla et al., 2020, arXiv:2004.11362, equation 2). With ``mil_nce`` the target is any of
            them: the logarithm of the sum of their probabilities (Miech et al., 2020, arXiv:1912.06430, equation 1).
        direction: the mean of both directions, their sum (ALIGN), or one of them.
        label_smoothing: share of the target's mass that is spread evenly over all candidates.
        in_batch: whether other rows of the batch are candidates. Without them a row meets its partner and the extra
            rows alone, as with the queue of MoCo (He et al., 2020, arXiv:1911.05722, algorithm 1).
        same_side: whether the other rows of its own side are candidates of a row too, and targets if they are
            duplicates. Then the mean of both directions is SimCLR's loss over 2B rows (Chen et al., 2020,
            arXiv:2002.05709, algorithm 1), and with ``supcon`` that of Khosla et al.
        decoupled: whether targets are left out of the candidates (Yeh et al., 2022, arXiv:2110.06848, equation 6). A
            row without another candidate has no loss.

    Returns:
        float32 scalar; 0 if no pair is left.

    Raises:
        ValueError: shapes, types or options that do not fit, or a batch that the mesh does not divide.
    """
    checks.check_pairs(a, b, options)
    checks.check_duplicates(options, "ignore", "supcon", "mil_nce")
    checks.check_number("logit_scale", logit_scale)
    checks.check_choice("direction", direction, get_args(Direction))
    checks.check_share("label_smoothing", label_smoothing)
    choices = direction, label_smoothing, in_batch, same_side, decoupled
    for problem in candidate_problems(options.extras, options.duplicates, *choices):
        raise ValueError(problem)
    logits = _logits(a, b, logit_scale, options, direction, in_batch, same_side, decoupled)
    weights = pairs.row_weights(len(a), options.weights, *options.present)
    means = jnp.stack([pairs.weighted_mean(loss, weights) for loss in _losses(logits, label_smoothing)])
    return jnp.mean(means) if direction == "mean" else jnp.sum(means)


def partner_first(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    options: PairOptions = DEFAULTS,
    *,
    direction: Direction = "mean",
) -> Float[Array, ""]:
    """Return the share of rows that are more similar to their partner than to all extra rows, without gradient.

    It is the accuracy of MoCo's classification (He et al., 2020, arXiv:1911.05722) in the directions of the loss.
    Arguments are those of ``info_nce``.
    """
    a, b, options = jax.lax.stop_gradient((a, b, options))
    logits = _logits(a, b, 1.0, options, direction, in_batch=False, same_side=False, decoupled=True)
    weights = pairs.row_weights(len(a), options.weights, *options.present)
    nearest = logits.with_others(MAX, [jnp.full_like(logits.positives, LOG_ZERO)] * logits.directions)
    shares = [pairs.weighted_mean((logits.positives > x).astype(jnp.float32), weights) for x in nearest]
    return jnp.mean(jnp.stack(shares))


def candidate_problems(
    extras: Collection[str],
    duplicates: Duplicates,
    direction: Direction,
    label_smoothing: float,
    in_batch: bool,
    same_side: bool,
    decoupled: bool,
) -> Iterator[str]:
    """Yield a sentence for each choice of candidates that does not fit the others. ``extras``: those that are given."""
    unused = {"a_to_b": "a", "b_to_a": "b"}.get(direction)
    for name in (f"extra_{unused}", f"row_extra_{unused}"):
        if name in extras:
            yield f"direction='{direction}' has no use for {name}: leave it out, or take direction='mean'"
    if decoupled and label_smoothing:
        yield "decoupled=True leaves the target out of the candidates, over which label_smoothing would spread it"
    if in_batch:
        return
    if same_side:
        yield "same_side=True adds rows of the batch to the candidates, and in_batch=False leaves them out"
    if duplicates in ("supcon", "mil_nce"):
        yield f"duplicates='{duplicates}' takes other rows of the batch as targets, and in_batch=False has none"
    for side in "ab":
        if side != unused and not {f"extra_{side}", f"row_extra_{side}"} & {*extras}:
            yield (
                f"in_batch=False leaves extra rows alone as negatives, and direction='{direction}' has none on side "
                f"{side}: name a queue in extra_{side}, or take the other direction alone"
            )


def _logits(
    a: Array,
    b: Array,
    logit_scale: Array | float,
    options: PairOptions,
    direction: Direction,
    in_batch: bool,
    same_side: bool,
    decoupled: bool,
) -> "_Logits":
    """Return the logits of the rows that are compared in this direction."""
    index = (jnp.arange(len(a), dtype=jnp.int32),)
    sides = options.sides(a, b, logit_scale, index if decoupled and in_batch and not options.ids else None)
    sides = sides[::-1] if direction == "b_to_a" else sides
    positives = jnp.sum(sides[0].rows.x * sides[1].rows.x, -1)
    both = direction in ("mean", "sum")
    return _Logits(sides, positives, options, logit_scale, both, in_batch, same_side, decoupled)


def _losses(logits: "_Logits", smoothing: float) -> list[Array]:
    """Return the losses [B] in each direction."""
    partners = logits.partners()
    targets = logits.targets()
    means = logits.means() if smoothing else targets
    losses = []
    for lse, target, mean in zip(logits.with_others(LOG_SUM_EXP, partners), targets, means, strict=True):
        loss = lse - (1 - smoothing) * target - smoothing * mean
        losses.append(jnp.where(lse > LOG_ZERO / 2, loss, 0.0) if logits.decoupled else loss)
    return losses


_MERGE: dict[Reduction, Callable[[Any, Any], Array]] = {LOG_SUM_EXP: jnp.logaddexp, SUM: jnp.add, MAX: jnp.maximum}


class _Logits(NamedTuple):
    """Reduce the logits between rows and their candidates: lists have a value [B] for each direction."""

    sides: Sequence[Side]
    positives: Array
    """The logits of the pairs."""
    options: PairOptions
    logit_scale: Array | float
    both: bool
    in_batch: bool
    same_side: bool
    decoupled: bool

    def partners(self) -> Sequence[Array]:
        """Return the log-sum-exp of the logits of those rows of the other side that are candidates."""
        positives = [self.positives] * self.directions
        if not self.in_batch:
            return [jnp.full_like(x, LOG_ZERO) for x in positives] if self.decoupled else positives
        if not self.decoupled and self.options.duplicates != "ignore":
            return self.other_side(LOG_SUM_EXP, "all")
        others = self.other_side(LOG_SUM_EXP, "non_duplicates")
        return others if self.decoupled else list(map(jnp.logaddexp, others, positives))

    def targets(self) -> Sequence[Array]:
        """Return the target logit."""
        if self.options.duplicates == "supcon":
            sums, counts = (logits.duplicates(SUM) for logits in (self, self.unit()))
            return [x / jnp.maximum(n, 1) for x, n in zip(sums, counts, strict=True)]
        if self.options.duplicates == "mil_nce":
            return self.duplicates(LOG_SUM_EXP)
        return [self.positives] * self.directions

    def means(self) -> list[Array]:
        """Return the mean logit of the candidates."""
        sums, counts = self.sums(), self.unit().sums(count=True)
        return [x / jnp.maximum(n, 1) for x, n in zip(sums, counts, strict=True)]

    def sums(self, count: bool = False) -> list[Array]:
        """Return the sum of the logits of the candidates; ``count``: logits are 1."""
        sides = self.sides if self.both else self.sides[:1]
        if not self.in_batch:
            found = [self.positives] * self.directions
        elif self.options.duplicates == "ignore":
            found = [x + self.positives for x in self.other_side(SUM, "non_duplicates")]
        elif count:
            keys = [side.rows for side in self.sides[::-1]]
            found = [len(k.x) if k.present is None else jnp.sum(k.present) for k in keys][: len(sides)]
        else:
            # The sum of products is the product with the sum, without any pairs.
            rows = [side.rows.x for side in self.sides]
            found = [jnp.sum(q * jnp.sum(k, 0), -1) for q, k in (rows, rows[::-1])][: len(sides)]
        return self.with_others(SUM, found)

    def unit(self) -> "_Logits":
        """Return the same with all logits 1, so that sums are counts."""
        sides = [Side(*map(pairs.unit_logits, side)) for side in self.sides]
        return self._replace(sides=sides, positives=jnp.ones_like(self.positives), logit_scale=1.0)

    @property
    def directions(self) -> int:
        return 2 if self.both else 1

    def duplicates(self, reduction: Reduction) -> Sequence[Array]:
        """Reduce over the duplicates of a row: its partner and others, but not itself."""
        found = self.other_side(reduction, "duplicates")
        if not self.same_side:
            return found
        return list(map(_MERGE[reduction], found, self.own_side(reduction, "other_duplicates")))

    def with_others(self, reduction: Reduction, found: Sequence[Any]) -> list[Array]:
        """Merge what is reduced over the other side with the candidates of the own side, and with extra rows."""
        merge, merged = _MERGE[reduction], []
        if self.same_side:
            apart = self.decoupled or self.options.duplicates == "ignore"
            found = list(map(merge, found, self.own_side(reduction, "non_duplicates", with_ids=apart)))
        for side, value in zip(self.sides, found, strict=False):
            if side.extra is not None:
                extra = pairs.reduce_extra(reduction, side.rows, side.extra, block_size=self.options.block_size)
                value = merge(value, extra)
            if side.row_extra is not None:
                value = merge(value, pairs.reduce_row_extra(reduction, side.rows, side.row_extra))
            merged.append(value)
        return merged

    def other_side(self, reduction: Reduction, included: Included) -> Sequence[Array]:
        """Reduce over rows of the other side."""
        left, right = self.sides
        options = {"pairs": included, "columns": self.both, "block_size": self.options.block_size}
        return pairwise_reduce(reduction, left.rows, right.rows, **options)

    def own_side(self, reduction: Reduction, included: Included, with_ids: bool = True) -> list[Array]:
        """Reduce over rows of the own side, of which a row itself is a duplicate; ``with_ids``: others may be too."""
        found = []
        for side in self.sides[: self.directions]:
            index = jnp.arange(len(side.plain.x), dtype=jnp.int32)
            keys = side.plain._replace(ids=(index, *(side.plain.ids if with_ids else ())))
            rows = pairs.scale_rows(keys, self.logit_scale)
            options = {"pairs": included, "columns": False, "block_size": self.options.block_size}
            found += pairwise_reduce(reduction, rows, keys, **options)
        return found
