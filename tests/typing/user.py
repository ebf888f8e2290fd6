"""A small program of a user, which is type-checked against the installed package."""

from typing import assert_type

import numpy as np

import jaxrep
from jaxrep import Data, Recipe, data, encoders, evals, methods, objectives, optim, schedules

recipe = Recipe(
    data=Data(train=data.OpenMoji(image_size=32), batch_size=128, tokenizer=data.Words(length=16)),
    method=methods.DualEncoder(
        towers={
            "image": encoders.ViT(width=64, depth=2, heads=2),
            "text": encoders.TextTransformer(width=64, depth=1, heads=2),
        },
        dim=64,
    ),
    objective={"contrastive": objectives.Contrastive("image", "text")},
    optimizer=optim.AdamW(),
    schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=20),
    epochs=1,
    evals=(evals.Retrieval(data=data.OpenMoji(image_size=32, part="test")),),
)

run = jaxrep.train(recipe, run_dir="runs/a", changes={"seed": 1})
assert_type(run, jaxrep.Run)
assert_type(run.recipe, Recipe)
model = jaxrep.load("runs/a")
assert_type(model, jaxrep.Model)
assert_type(jaxrep.evaluate(model, recipe.evals), dict[str, float])
embeddings = jaxrep.embed(model, data.OpenMoji(image_size=32, part="test"))
assert_type(model.encode_text(["red heart"]), np.ndarray)
