"""Make the training step, ``(state, batch) -> (state, metrics)``, a pure function of the recipe, and compile it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.mesh import ROWS
from jaxrep.methods.base import Method
from jaxrep.methods.state import state_parts
from jaxrep.objectives.base import with_given
from jaxrep.optim.optimizers import Updater
from jaxrep.params import Arrays, apply_constraints
from jaxrep.recipe import Recipe
from jaxrep.step import grad_cache
from jaxrep.step.embedding_metrics import embedding_metrics
from jaxrep.step.flops import StepFlops, flops_by_type
from jaxrep.step.programs import Programs
from jaxrep.step.shapes import Shapes, trace_shapes
from jaxrep.step.train_state import TrainState, abstract_state

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_step(recipe: Recipe, shapes: Shapes, updater: Updater, total_steps: int) -> Step:
    """Return the step of a recipe, to be jitted with the state donated."""
    computation, keep = shapes.computation, kept_outputs(recipe)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.wrap_key_data(state.key)
        ctx = StepContext(state.step, key, batch["position"], total_steps, recipe.data.batch_size)
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
        params = apply_constraints(shapes.structure, moved)
        non_trainable = {**state.non_trainable, **statistics}
        for name in state_parts(recipe.method):
            module = shapes.structure.merge(non_trainable, params)
            own = getattr(module, name).update(module, outputs, batch, ctx)
            non_trainable |= {f"{name}/{path}": jax.lax.stop_gradient(value) for path, value in own.items()}
        ema = recipe.ema.update(state.ema, params, ctx)
        new = dataclasses.replace(state, params=params, non_trainable=non_trainable, optimizer=optimizer, ema=ema)
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


def kept_outputs(recipe: Recipe) -> Callable[[str], bool]:
    """Return a function that tells by name whether a per-example output is kept for the whole batch.

    All are kept if the method works across the batch or has state parts. Else those are kept that whole-batch terms
    and the embedding metrics read. What only a separable term reads exists within a microbatch.
    """
    if type(recipe.method).across_batch is not Method.across_batch or state_parts(recipe.method):
        return lambda name: True
    kept = {name for term in recipe.objective.values() if not term.separable for name in term.reads}
    if recipe.log.embedding_metrics:
        kept |= {name for term in recipe.objective.values() for name in term.embeddings}
    return lambda name: name in kept


def pairwise_metrics(recipe: Recipe, shapes: Shapes, outputs: Outputs, batch: Batch, step: Array) -> dict[str, Array]:
    """Return ``embeddings/<a>-<b>/...`` of all pairs of embeddings [B,D] that terms compare; NaN on unlogged steps."""
    names = dict.fromkeys(name for term in recipe.objective.values() for name in term.embeddings)
    outputs = with_given(names, outputs, batch)
    of_rows = (name for name in names if name in shapes.rows or name not in shapes.outputs)
    tables = [name for name in of_rows if name in outputs and outputs[name].ndim == 2]
    pairs = list(combinations(tables, 2))
    if not recipe.log.embedding_metrics or not pairs:
        return {}
    ids = tuple(batch[name] for name in ("image_id", "text_id") if name in batch and batch[name].ndim == 1)

    def measure() -> Arrays:
        return {
            f"embeddings/{a}-{b}/{name}": value
            for a, b in pairs
            for name, value in embedding_metrics(normalize(outputs[a]), normalize(outputs[b]), ids).items()
        }

    blank = jax.eval_shape(measure)
    return jax.lax.cond(
        step % recipe.log.every_steps == 0,
        measure,
        lambda: jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), blank),
    )


def trace_step(
    recipe: Recipe, shapes: Shapes, updater: Updater, total_steps: int, state: TrainState, batch: Mapping[str, Any]
) -> jax.stages.Traced:
    """Trace the step from shapes with shardings, ready to be lowered for their devices."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = make_step(recipe, shapes, updater, total_steps)
    return jax.jit(step, donate_argnums=0, out_shardings=(places, None)).trace(state, batch)


def abstract_batch(shapes: Shapes, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch with its rows over the devices."""
    rows = jax.NamedSharding(mesh, ROWS)
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for name, leaf in shapes.batch.items()}


def with_tokens(batch: Mapping[str, Any], texts: Sequence[str], tokens: int) -> dict[str, Any]:
    """Return the shapes of a batch whose texts have ``tokens`` tokens."""
    own = {key for name in texts for key in (name, f"{name}/valid")}
    return {key: leaf.update(shape=(*leaf.shape[:-1], tokens)) if key in own else leaf for key, leaf in batch.items()}


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """Run the step that was compiled for the number of tokens of a batch."""

    steps: Mapping[int, Step]
    """Compiled step by number of tokens per text."""
    flops: Mapping[int, StepFlops]
    """Floating-point operations of the step by number of tokens per text."""
    texts: Sequence[str]
    """Fields of tokens."""

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return self.steps[self._tokens(batch)](state, batch)

    def flops_of(self, batch: Any) -> StepFlops:
        """Return the floating-point operations of the step on this batch."""
        return self.flops[self._tokens(batch)]

    def _tokens(self, batch: Any) -> int:
        return batch[self.texts[0]].shape[-1] if self.texts else max(self.steps)


def compile_step(
    recipe: Recipe,
    shapes: Shapes,
    updater: Updater,
    total_steps: int,
    mesh: jax.sharding.Mesh,
    state: TrainState | None = None,
    programs: Programs | None = None,
) -> CompiledStep:
    """Compile the step from shapes and shardings alone.

    Args:
        recipe: the recipe.
        shapes: shapes of its model and batch.
        updater: its optimizer.
        total_steps: length of training, which schedules read.
        mesh: the devices.
        state: shapes of the state, with shardings; by default ``abstract_state`` makes them.
        programs: where compiled steps are kept; by default nowhere.

    Returns:
        One compiled program per number of tokens that the order of the data gives texts.
    """
    state = abstract_state(recipe, shapes, updater, mesh) if state is None else state
    data, whole, programs = recipe.data, abstract_batch(shapes, mesh), programs or Programs()
    steps: dict[int, Step] = {}
    flops: dict[int, StepFlops] = {}
    for tokens in sorted({data.tokenizer.length, *(data.order.text_lengths if data.texts else ())}):
        batch = with_tokens(whole, data.texts, tokens)
        trace = functools.partial(trace_step, recipe, shapes, updater, total_steps, state, batch)
        count = functools.partial(step_flops, recipe, shapes, tokens=tokens)
        steps[tokens], flops[tokens] = programs.get(f"step of {tokens} tokens", trace, count)
    return CompiledStep(steps, flops, data.texts)


def step_flops(recipe: Recipe, shapes: Shapes, traced: jax.stages.Traced, tokens: int = 0) -> StepFlops:
    """Count the floating-point operations of a traced step; ``tokens``: per text, 0: the length of the tokenizer."""
    if tokens not in (0, recipe.data.tokenizer.length):
        shapes = trace_shapes(recipe.replace({"data.tokenizer.length": tokens}))
    executed = flops_by_type(traced.jaxpr.jaxpr)
    main = max(executed, key=lambda kind: executed[kind], default="float32")
    return StepFlops(3 * shapes.forward_flops, executed.total(), main)
