"""Geological mapping by stacked autoencoders and clustering (Nagar et al. 2024, arXiv:2404.02180).

Single pixels of a satellite are rows of bands. An autoencoder brings them to two numbers and back. The next one reads
what the first reconstructs beside the bands, and a third a hidden layer of the second beside that; each is trained
after the one below, which stays as it is. k-means makes the map of the last code, beside that of the first (the paper's
canonical autoencoder) and that of principal components.

Of the paper only the beginning could be read. Numbers are those of the released code for Sentinel-2
(sydney-machine-learning/autoencoders_remotesensing, Autoencoder_Sentinel2.ipynb), which has three autoencoders. Rate,
epsilon and initial kernels are the defaults of Keras, whose penalty of activations is a sum over each layer, divided by
the batch. How many bands are kept could not be read: ten here, which you bring to 0 to 1 band by band, as the authors
do. They take the majority of 7 x 7 pixels of the map, which is left out.

``jaxrep train stacked_autoencoders:tiny`` takes about 1 minute on two cores, with the autoencoders below.
"""

from dataclasses import replace

from jaxrep import Data, From, Recipe, data, encoders, evals, methods, objectives, optim, schedules

BANDS = 10
PIXELS = data.ArrayShards(
    shards="sentinel2/pixels-{00..69}.npz",
    shapes={"spectrum": (BANDS,), "label": ()},
    kinds={"label": "int32"},
)
PENALTY = schedules.Constant(value=1e-4)


def autoencoder(name: str, widths: tuple[int, ...], **fields) -> methods.Autoencoder:
    """Return an autoencoder whose encoder has layers of ``widths``, and the decoder the same backwards."""
    net = encoders.Perceptron(widths=widths, activation="selu", init="glorot")
    decoder = replace(net, widths=widths[-2::-1])
    return methods.Autoencoder(encoders={name: net}, decoder=decoder, output="sigmoid", **fields)


def objective(name: str, layers: int) -> dict[str, objectives.Term]:
    """Return mean squares between inputs and reconstructions, and the penalty of all layers."""
    penalized = (f"{part}/layers/{i}" for part in (name, "decoder") for i in range(1, layers + 1))
    return {
        "reconstruction": objectives.MeanSquare(f"{name}/reconstruction", f"{name}/input"),
        "activations": objectives.ActivationNorm(tuple(penalized), weight=PENALTY),
    }


def clusters(source: data.Source, label: str, **outputs: tuple[str, int]) -> tuple[evals.Eval, ...]:
    """Return k-means of outputs: for each name the output and the number of clusters."""
    shared = {"data": source, "image": "spectrum", "label": label, "normalize": False}
    return tuple(
        evals.Clustering(**shared, output=output, clusters=count, components=2 * (output == "pixels"), name=name)
        for name, (output, count) in outputs.items()
    )


def on(below: Recipe, name: str, widths: tuple[int, ...], reads: tuple[str, ...], **changes) -> Recipe:
    """Return the recipe of an autoencoder that is stacked on a trained one.

    Args:
        below: the recipe of the one below.
        name: of the input.
        widths: of the layers of its encoder.
        reads: what lies side by side in the input.
        **changes: other fields that change.
    """
    method = below.method
    assert isinstance(method, methods.Autoencoder)
    parts = (*method.encoders, "decoder", *(("below",) if method.below else ()))
    return below.replace(
        {"data.batch_size": below.data.batch_size // 2},
        method=autoencoder(name, widths, joined={name: reads}, below=method),
        objective=objective(name, len(widths)),
        init={f"below/{part}": From(below, part) for part in parts},
        **changes,
    )


def third(first: Recipe, **changes) -> Recipe:
    """Return the recipe of all three autoencoders. ``changes``: fields of the last one."""
    second = on(first, "second", (10, 5, 2), ("spectrum/reconstruction", "spectrum"), epochs=5, evals=())
    return on(second, "third", (15, 10, 5, 2), ("second/layers/2", "second/input"), **changes)


single = Recipe(
    data=Data(train=PIXELS, batch_size=64, workers=16, texts=()),
    method=autoencoder("spectrum", (6, 4, 2)),
    objective={
        **objective("spectrum", 3),
        "reconstruction": objectives.Reconstruction("spectrum/reconstruction", "spectrum", patch=(), over="all"),
    },
    optimizer=optim.Adam(eps=1e-7),
    schedule=schedules.Constant(value=1e-3),
    epochs=10,
    evals=clusters(PIXELS, "label", single=("spectrum", 7), pca=("pixels", 6)),
)
recipe = third(
    replace(single, evals=()),
    evals=clusters(PIXELS, "label", stacked=("third", 6), single=("spectrum", 7), pca=("pixels", 6)),
)

# Spectra of six materials in ten bands: reflected shares of the light, which lie in 0 to 1 without scaling.
SPECTRA = data.LandcoverSpectra()
HELD_OUT = replace(SPECTRA, maps=replace(SPECTRA.maps, part="test", count=60))
tiny = third(
    replace(single, data=Data(train=SPECTRA, batch_size=64, texts=()), evals=()),
    evals=clusters(HELD_OUT, "material", stacked=("third", 6), single=("spectrum", 6), pca=("pixels", 6)),
)
