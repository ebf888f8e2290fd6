"""Hold the state of training, and make the first one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh as meshes
from jaxrep.batch import Array
from jaxrep.optim.optimizers import Updater
from jaxrep.params import Arrays, split
from jaxrep.paths import flatten
from jaxrep.recipe import Recipe
from jaxrep.step.shapes import Shapes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Hold the state between two steps, as a pytree."""

    params: Arrays  # what has gradients, by path
    non_trainable: Arrays  # frozen parameters, running statistics, state parts, by path
    optimizer: Any
    ema: Any  # average of params, or None
    step: Array  # int32: updates done
    skipped: Array  # int32: steps in a row that were not finite
    key: Array  # raw uint32 key of the recipe's seed

    @property
    def arrays(self) -> Arrays:
        """All arrays of the model."""
        return {**self.non_trainable, **self.params}


def initial_state(recipe: Recipe, shapes: Shapes, updater: Updater) -> TrainState:
    """Return the state before the first step: parameters, state parts and averages of the recipe's seed."""
    key = jax.random.key(recipe.seed)
    _, arrays = split(recipe.method.build(nnx.Rngs(jax.random.fold_in(key, 0)), inputs=shapes.inputs))
    arrays |= {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.tables.items()}
    return _state(recipe, shapes, updater, arrays, jax.random.key_data(jax.random.fold_in(key, 1)))


def _state(recipe: Recipe, shapes: Shapes, updater: Updater, arrays: Arrays, key: Array) -> TrainState:
    """Return the state before the first step, of these arrays of the model."""
    params = {path: arrays[path] for path in shapes.trained(updater)}
    return TrainState(
        params=params,
        non_trainable={path: array for path, array in arrays.items() if path not in params},
        optimizer=updater.init(params),
        ema=recipe.ema.init(params),
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        key=key,
    )


def abstract_state(recipe: Recipe, shapes: Shapes, updater: Updater, mesh: jax.sharding.Mesh) -> TrainState:
    """Return the shapes of the state, each with its sharding."""
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    bare = jax.eval_shape(functools.partial(_state, recipe, shapes, updater), shapes.arrays, key)
    placed = state_shardings(recipe, mesh, bare)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), bare, placed)


def state_shardings(recipe: Recipe, mesh: jax.sharding.Mesh, shapes: Any) -> Any:
    """Return the shardings of a state; the arrays of a parameter (moments, averages) lie as the parameter does."""
    whole = jax.NamedSharding(mesh, jax.P())
    model = {**shapes.params, **shapes.non_trainable}
    by_path = meshes.shardings(mesh, recipe.mesh, model)

    def place(path: str, leaf: Any) -> jax.NamedSharding:
        # The path of a moment in the optimizer ends with its parameter's path.
        parts = path.split("/")
        owner = next((name for i in range(len(parts)) if (name := "/".join(parts[i:])) in model), None)
        return by_path[owner] if owner and model[owner].shape == leaf.shape else whole

    return jax.tree.unflatten(jax.tree.structure(shapes), [place(path, leaf) for path, leaf in flatten(shapes).items()])
