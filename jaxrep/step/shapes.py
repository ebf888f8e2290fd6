"""Trace a recipe by shape: what it builds and what its method emits, without a device or a data file."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Field, StepContext
from jaxrep.computation import Computation
from jaxrep.data.class_texts import table_fields
from jaxrep.data.fields import batch_fields
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.methods.heads import LogitBias
from jaxrep.methods.state import state_parts
from jaxrep.objectives.base import given_fields, with_given
from jaxrep.objectives.contrastive import Sigmoid
from jaxrep.objectives.wrappers import EachView
from jaxrep.optim.optimizers import Updater
from jaxrep.params import Arrays, Structure, split
from jaxrep.paths import PathError
from jaxrep.recipe import Recipe
from jaxrep.schedules import Schedule
from jaxrep.spec import check, walk
from jaxrep.step.flops import count_flops, count_jaxpr_flops
from jaxrep.user_modules import place_of

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Hold the shapes of what a recipe builds and emits."""

    batch: Mapping[str, jax.ShapeDtypeStruct]  # as it leaves the host
    fields: Mapping[str, Field]  # as the method sees it, after the views
    tables: Mapping[str, Field]  # whole shapes, by path
    computation: Computation
    arrays: Mapping[str, Any]  # shapes of the model, by path
    outputs: Mapping[str, Any]  # of rows, join and shared
    rows: frozenset[str]  # names of the outputs that lead with B
    batch_stats: tuple[str, ...]  # paths of running statistics that ``rows`` returns
    forward_flops: float  # of a batch, by the method

    @property
    def inputs(self) -> dict[str, Field]:
        """Fields from which a method is built."""
        return {**self.fields, **self.tables}

    @property
    def structure(self) -> Structure:
        return self.computation.structure

    def updater(self, recipe: Recipe) -> Updater:
        """Return the optimizer of this model."""
        params = {path: leaf for path, leaf in self.arrays.items() if path in self.structure.trainable}
        try:
            return recipe.optimizer.build(params)
        except PathError as error:
            raise UsageError(f"optimizer: {error}") from None

    def trained(self, updater: Updater) -> list[str]:
        """Return the paths of the arrays that have gradients, in the model's order."""
        return [path for path in self.arrays if path in updater.trained]


def context_shapes(recipe: Recipe) -> StepContext:
    """Return a step context of shapes."""
    step, size = jax.ShapeDtypeStruct((), jnp.int32), recipe.data.batch_size
    key, positions = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((size, 2), jnp.uint32)
    return StepContext(step, key, positions, batch_size=size)


def trace_shapes(recipe: Recipe, fields: Mapping[str, Field] | None = None) -> Shapes:
    """Trace a recipe by shape. ``fields`` are those of a batch as it leaves the host, by default its data's.

    Raises:
        UsageError: a part cannot be built, a term reads an output that the method does not emit, or the batch lacks a
            field.
    """
    data, ctx = recipe.data, context_shapes(recipe)
    fields = batch_fields(data.train, data.tokenizer, data.texts) if fields is None else fields
    batch = _batch_shapes(fields, data.batch_size)
    views = Computation(None, recipe.views, recipe.objective)  # pyright: ignore[reportArgumentType]
    seen = _traced("views", views.augment, batch, ctx)
    after = {
        name: Field(leaf.shape[1:], str(leaf.dtype), fields[name].classes if name in fields else None)
        for name, leaf in seen.items()
    }
    tables = table_fields(data.tables, data.train, data.tokenizer)
    inputs = {**after, **tables}
    module = _traced("method", lambda: recipe.method.build(nnx.Rngs(0), inputs=inputs), by=nnx.eval_shape)
    structure, arrays = split(module)
    arrays |= {path: jax.ShapeDtypeStruct(field.shape, field.dtype) for path, field in tables.items()}
    computation = dataclasses.replace(views, structure=structure)

    def emit(arrays: Arrays, batch: Any, ctx: StepContext):
        outputs, batch_stats = computation.per_example(arrays, batch, ctx)
        shared = computation.per_step(arrays, ctx)
        return computation.across_batch(arrays, {**outputs, **shared}, batch, ctx)[0], shared, batch_stats

    forward, (outputs, shared, batch_stats) = _traced("method", emit, arrays, seen, ctx, by=_jaxpr_and_shapes)
    rows, flops = frozenset(outputs.keys() - shared.keys()), count_jaxpr_flops(forward.jaxpr)
    result = Shapes(batch, after, tables, computation, arrays, outputs, rows, tuple(batch_stats), flops)
    for name in state_parts(recipe.method):
        _check_state_part(name, result, ctx)
    _check(recipe, result, seen, ctx)
    return result


def validate(recipe: Recipe) -> Shapes:
    """Check the values of a recipe, then trace it by shape.

    Raises:
        UsageError: every mistake in the values, or the first mistake of shape.
    """
    check(recipe)
    shapes = trace_shapes(recipe)
    warn_of_biases(recipe, shapes)
    return shapes


def warn_of_biases(recipe: Recipe, shapes: Shapes) -> None:
    """Warn of a sigmoid loss that starts far from a random guess (Zhai et al. 2023, arXiv:2303.15343, section 3.2).

    One of the B rows is a row's partner, so the guess is the logit -ln(B - 1). From a bias far away from it the loss
    falls for many steps by learning the bias alone.
    """
    starts = {path: part.init for path, part in walk(recipe.method, "method") if isinstance(part, LogitBias)}
    batch = _batch_shapes(shapes.fields, recipe.data.batch_size)
    for name, top in recipe.objective.items():
        parts = [part for _, part in walk(top)]
        for term in (part for part in parts if isinstance(part, Sigmoid) and part.bias not in recipe.init):
            shape = with_given((term.a,), shapes.outputs, batch)[term.a].shape
            rows = shape[0] if any(isinstance(part, EachView) for part in parts) else math.prod(shape[:-1])
            for path, start in starts.items():
                if path.endswith(f".{term.bias}") and rows > 1 and abs(start + math.log(rows - 1)) > 2:
                    sentence = "%s.init is %g: among the %d rows that objective.%s compares a random guess needs %.2f"
                    LOG.warning(sentence, path, start, rows, name, -math.log(rows - 1))


def fit_devices(recipe: Recipe, devices: Sequence[Any] | None = None) -> tuple[Shapes, jax.sharding.Mesh, Updater]:
    """Check a recipe and that it fits the devices (None: all); return its shapes, its mesh and its optimizer.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the devices.
    """
    shapes = validate(recipe)
    mesh = recipe.mesh.build(devices)
    check_devices(recipe, mesh)
    recipe.mesh.check(shapes.arrays)
    return shapes, mesh, shapes.updater(recipe)


def check_devices(recipe: Recipe, mesh: jax.sharding.Mesh) -> None:
    """Check that the batch and the microbatch divide over the devices, and what these can do. Raises UsageError."""
    if mesh.devices.flat[0].platform == "cpu":
        for path, part in walk(recipe):
            if getattr(part, "remat", None) == "offload":
                raise UsageError(
                    f"{path}.remat is offload, which keeps activations in the memory of the host, and a CPU has no "
                    "other memory: take full"
                )
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    for name, size in (("data.batch_size", recipe.data.batch_size), ("microbatch_size", recipe.microbatch_size)):
        if size % devices:
            raise UsageError(
                f"{name} is {size}, which {devices} devices (data x fsdp) do not divide: take a multiple of {devices}"
            )


def _check(recipe: Recipe, shapes: Shapes, batch: Mapping[str, Any], ctx: StepContext) -> None:
    """Check that terms and evaluations find what they read, that losses and schedules are scalars, and microbatches."""
    emitted, given = shapes.outputs, given_fields(batch)
    readers = [(f"objective.{name}", term.reads, {*emitted, *given}) for name, term in recipe.objective.items()]
    readers += [(f"evals.{i}", each.reads, {*emitted}) for i, each in enumerate(recipe.evals)]
    for where, read, known in [(where, read, known) for where, reads, known in readers for read in reads]:
        if read not in known:
            raise UsageError(
                f"{where} reads '{read}', which {type(recipe.method).__name__} does not emit: "
                f"{hint(read, sorted(known))}"
            )
    for name, term in recipe.objective.items():
        for need in term.needs:
            if need not in batch:
                how = term.advice(need) or hint(need, sorted(batch))
                raise UsageError(f"objective.{name} needs the field '{need}' of the batch: {how}")
        loss, _ = _traced(f"objective.{name}", term, with_given(term.reads, emitted, batch), batch, ctx)
        if loss.shape != ():
            raise UsageError(f"objective.{name} must be a scalar, and its shape is {loss.shape}")
    for where, part in walk(recipe):
        if isinstance(part, Schedule) and (value := _traced(where, part, ctx)).shape != ():
            raise UsageError(f"{where} must be a scalar, and its shape is {value.shape}")
    if recipe.microbatch_size and shapes.batch_stats:
        raise UsageError(
            f"microbatch_size={recipe.microbatch_size}: '{shapes.batch_stats[0]}' is a statistic over the batch inside "
            "an encoder, so microbatches would change the result; use group or layer norm there, or microbatch_size=0"
        )


def _check_state_part(name: str, shapes: Shapes, ctx: StepContext) -> None:
    """Check that the update of a state part can be computed, and keeps the shapes and types of what it holds."""

    def update(arrays: Arrays, outputs: Any, batch: Any, ctx: StepContext):
        module = shapes.structure.merge(arrays)
        return getattr(module, name).update(module, outputs, batch, ctx)

    for path, new in _traced(f"method.{name}", update, shapes.arrays, shapes.outputs, shapes.batch, ctx).items():
        old = shapes.arrays.get(f"{name}/{path}")
        if old is None or (new.shape, new.dtype) != (old.shape, old.dtype):
            has = "which it does not hold" if old is None else f"where it holds {old.dtype} {old.shape}"
            raise UsageError(f"method.{name}: its update returns '{path}', {new.dtype} {new.shape}, {has}")


def _batch_shapes(fields: Mapping[str, Field], size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((size, *field.shape), field.dtype) for name, field in fields.items()}


def _jaxpr_and_shapes(function: Any, *args: Any) -> tuple[Any, Any]:
    return jax.make_jaxpr(function, return_shape=True)(*args)


def _traced(where: str, function: Any, *args: Any, by: Any = jax.eval_shape) -> Any:
    """Return the shapes of ``function(*args)``; a ValueError, or any error in a user's code, becomes a UsageError."""
    try:
        return by(function, *args)
    except JaxrepError:
        raise
    except Exception as error:
        message, place = str(error).strip().partition("\n")[0], place_of(error)
        if place:
            raise UsageError(f"{where}: {place}: {type(error).__name__}: {message}") from error
        if not isinstance(error, ValueError | ArithmeticError):  # a number that no array or division takes
            raise
        raise UsageError(f"{where}: {message}") from error


def model_summary(recipe: Recipe) -> dict[str, float]:
    """Count parameters, and the matrix-product FLOPs per example of the forward pass and of a training step."""
    traced, size = trace_shapes(recipe), recipe.data.batch_size
    params = {path: traced.arrays[path] for path in traced.trained(traced.updater(recipe))}
    non_trainable = {path: leaf for path, leaf in traced.arrays.items() if path not in params}
    ctx = context_shapes(recipe)
    step = count_flops(traced.computation.value_and_grad, params, non_trainable, traced.batch, ctx)
    return {
        "parameters": sum(traced.arrays[path].size for path in traced.structure.trainable),
        "forward_flops_per_example": traced.forward_flops / size,
        "step_flops_per_example": step / size,
    }
