"""Make the training step: ``(state, batch) -> (state, metrics)``, a pure function of the recipe."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.mesh import ROWS
from jaxrep.methods.state import StatePart
from jaxrep.optim.optimizers import Updater
from jaxrep.params import Arrays, apply_limits
from jaxrep.recipe import Recipe
from jaxrep.step import grad_cache
from jaxrep.step.embedding_metrics import embedding_metrics
from jaxrep.step.shapes import Shapes
from jaxrep.step.train_state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_step(recipe: Recipe, shapes: Shapes, updater: Updater, total_steps: int) -> Step:
    """Return the step of a recipe, to be jitted with the state donated."""
    computation = shapes.computation
    state_parts = tuple(name for name, value in vars(recipe.method).items() if isinstance(value, StatePart))
    keep = kept_outputs(recipe)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        ctx = StepContext(
            step=state.step,
            base_key=jax.random.wrap_key_data(state.key),
            positions=batch["position"],
            total_steps=total_steps,
            batch_size=recipe.data.batch_size,
        )
        args = (state.params, state.non_trainable, batch, ctx)
        if recipe.microbatch_size:
            found, gradients = grad_cache.value_and_grad(computation, *args, size=recipe.microbatch_size, keep=keep)
        else:
            found, gradients = computation.value_and_grad(*args)
        loss, metrics, outputs, statistics = found
        learning_rate = recipe.schedule(ctx)
        updates, optimizer, norms = updater.update(
            gradients, state.optimizer, state.params, ctx=ctx, learning_rate=learning_rate
        )
        moved: Any = optax.apply_updates(state.params, updates)
        params = apply_limits(shapes.structure, moved)
        non_trainable = {**state.non_trainable, **statistics}
        for name in state_parts:
            module = shapes.structure.merge(non_trainable, params)
            own = getattr(module, name).update(module, outputs, batch, ctx)
            non_trainable |= {f"{name}/{path}": jax.lax.stop_gradient(value) for path, value in own.items()}
        new = dataclasses.replace(
            state,
            params=params,
            non_trainable=non_trainable,
            optimizer=optimizer,
            ema=recipe.ema.update(state.ema, params, ctx),
        )
        finite = jnp.isfinite(loss) & jnp.isfinite(norms["gradient_norm"])
        new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = dataclasses.replace(new, step=state.step + 1, skipped=jnp.where(finite, 0, state.skipped + 1))
        metrics = {
            "loss": loss,
            **metrics,
            **norms,
            "parameter_norm": optax.global_norm(params),
            "learning_rate": learning_rate,
            "skipped": new.skipped,
            **{name: value for name, value in outputs.items() if name not in shapes.rows and jnp.ndim(value) == 0},
        }
        return new, {**metrics, **pairwise_metrics(recipe, shapes, outputs, batch, state.step + 1)}

    return step


def trace_step(
    recipe: Recipe, shapes: Shapes, updater: Updater, total_steps: int, state: TrainState, batch: Mapping[str, Any]
) -> jax.stages.Traced:
    """Trace the step from shapes with shardings, ready to be lowered for their devices."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_step(recipe, shapes, updater, total_steps)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None)).trace(state, batch)


def abstract_batch(shapes: Shapes, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch with its rows over the devices."""
    rows = NamedSharding(mesh, ROWS)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for name, leaf in shapes.batch.items()}


def with_tokens(batch: Mapping[str, Any], texts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Return the shapes of a batch whose texts have ``tokens`` tokens."""
    own = {key for name in texts for key in (name, f"{name}/valid")}
    return {key: leaf.update(shape=(*leaf.shape[:-1], tokens)) if key in own else leaf for key, leaf in batch.items()}


def kept_outputs(recipe: Recipe) -> Callable[[str], bool]:
    """Return a function that tells by name whether a per-example output is kept for the whole batch.

    All are kept if the method works across the batch or has state parts. Else those are kept that whole-batch terms
    and the embedding metrics read. What only a separable term reads exists within a microbatch.
    """
    method = type(recipe.method)
    if method.across_batch is not _abstract(method).across_batch or any(
        isinstance(v, StatePart) for v in vars(recipe.method).values()
    ):
        return lambda name: True
    kept = {name for term in recipe.objective.values() if not term.separable for name in term.reads}
    if recipe.log.embedding_metrics:
        kept |= {name for term in recipe.objective.values() for name in term.embeddings}
    return lambda name: name in kept


def _abstract(method: type) -> Any:
    """Return the class that declares ``across_batch``."""
    return next(cls for cls in reversed(method.__mro__) if "across_batch" in vars(cls))


def embeddings(recipe: Recipe, shapes: Shapes) -> list[str]:
    """Return the names of the embeddings [B, D] that terms compare, in order."""
    names = dict.fromkeys(name for term in recipe.objective.values() for name in term.embeddings)
    return [name for name in names if name in shapes.rows and len(shapes.outputs[name].shape) == 2]


def pairwise_metrics(recipe: Recipe, shapes: Shapes, outputs: Outputs, batch: Batch, step: Array) -> dict[str, Array]:
    """Return ``embeddings/<a>-<b>/...`` of every pair of embeddings on logged steps, NaN on other steps."""
    pairs = list(combinations(embeddings(recipe, shapes), 2))
    if not recipe.log.embedding_metrics or not pairs:
        return {}
    ids = tuple(batch[name] for name in ("image_id", "text_id") if name in batch and batch[name].ndim == 1)

    def measure() -> Arrays:
        return {
            f"embeddings/{a}-{b}/{name}": value
            for a, b in pairs
            for name, value in embedding_metrics(normalize(outputs[a]), normalize(outputs[b]), ids or None).items()
        }

    blank = jax.eval_shape(measure)
    return jax.lax.cond(
        step % recipe.log.every_steps == 0,
        measure,
        lambda: jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), blank),
    )
