"""Sizes of encoders are checked as values: a sentence per field, before anything is built."""

import pytest

from jaxrep import encoders
from jaxrep.spec import problems, replace

SIZE = dict(width=8, depth=2, heads=2)
ENCODERS = {
    "vit": encoders.ViT(**SIZE),
    "text": encoders.TextTransformer(**SIZE),
    "bert": encoders.Bert(**SIZE),
    "triples": encoders.TripleTransformer(**SIZE),
    "series": encoders.SeriesTransformer(**SIZE, length=6),
    "queries": encoders.QueryDecoder(**SIZE),
    "resnet": encoders.ResNet(depths=(2, 2), width=8),
    "efficientnet": encoders.EfficientNet(),
    "perceptron": encoders.Perceptron(widths=(8, 8)),
    "convolutions": encoders.SeriesConvolutions(length=90, channels=(8, 8)),
    "stem": encoders.ConvStem(channels=(8, 8)),
}
FIELDS = {
    "resnet": ("width", "depths.1"),
    "perceptron": ("widths.0",),
    "efficientnet": ("width_factor", "depth_factor"),
}
FIELDS |= {"convolutions": ("channels.0", "length", "kernel"), "stem": ("channels.1", "patch")}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("number", [0, -1])
def test_sizes_of_zero_or_less_are_one_sentence(name, number):
    assert problems(ENCODERS[name]) == []
    for field in FIELDS.get(name, SIZE):
        value = float(number) if "factor" in field else number
        (sentence,) = problems(replace(ENCODERS[name], {field: value}))
        assert sentence.startswith(f"{field}: expected a number ")


@pytest.mark.parametrize("name", ["vit", "text", "bert", "triples", "series", "queries"])
@pytest.mark.parametrize("heads", [3, 5, 16])
def test_heads_that_do_not_divide_the_width_are_one_sentence(name, heads):
    assert problems(replace(ENCODERS[name], heads=heads)) == [
        f"heads = {heads} do not divide width = 8: take a number of heads that does"
    ]


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in ("vit", "text", "bert", "queries") for field in ("width", "depth", "mlp_ratio")]
    + [("resnet", "depths.0"), ("resnet", "width"), ("perceptron", "widths.1"), ("efficientnet", "depth_factor")]
    + [("efficientnet", "width_factor"), ("convolutions", "channels.0"), ("stem", "channels.0")],
)
@pytest.mark.parametrize("number", [10**9, 10**30])
def test_sizes_that_cannot_be_traced_are_one_sentence(name, field, number):
    value = float(number) if field.endswith(("ratio", "factor")) else number
    (sentence,) = problems(replace(ENCODERS[name], {field: value}))
    assert sentence.startswith(f"{field}: expected a number ") and (
        "of at most" in sentence or "below 2**63" in sentence
    )
