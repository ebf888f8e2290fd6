"""Wrong captions differ from the true caption in the intended words only."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxrep.data.transforms.word_swaps import (
    PARTS_OF_SPEECH,
    Negative,
    Span,
    draw,
    exchanges,
    parse,
    phrases,
    read,
    reorderings,
    replacements,
    spacy_spans,
    tagger,
)
from jaxrep.errors import UsageError

GROUPS = read()
WORDS = parse("noun: horse | grass | cat\nadjective: brown | green\nverb: eats")
CAPTION = "The brown horse eats green grass"


def texts(negatives, kind):
    return [negative.text for negative in negatives if negative.kind == kind]


@pytest.mark.parametrize(
    ("caption", "kind", "wrong"),
    [
        ("left arrow", "direction", ["right arrow"]),
        ("up-left arrow", "direction", ["up-right arrow", "down-left arrow", "down-right arrow"]),
        ("Left turn", "direction", ["Right turn"]),
        ("Mrs. Claus: dark skin tone", "gender", ["Santa Claus: dark skin tone"]),
        ("woman: curly hair", "gender", ["man: curly hair"]),
        ("the manual of a Roman", "gender", []),
        ("man’s shoe", "gender", ["woman’s shoe"]),
        ("no words of the lexicon", "color", []),
    ],
)
def test_phrase_is_replaced_by_all_that_exclude_it(caption, kind, wrong):
    assert texts(replacements(caption, GROUPS), kind) == wrong


def test_longest_phrase_is_matched():
    actual = texts(replacements("person: medium-light skin tone", GROUPS), "skin_tone")
    assert actual == [f"person: {tone} skin tone" for tone in ("light", "medium", "medium-dark", "dark")]


def test_colors_are_replaced_by_other_colors():
    actual = texts(replacements("red apple beside a blue book", GROUPS), "color")
    assert len(actual) == len(set(actual)) == 16
    assert all(("red" in text.split()) != ("blue" in text.split()) or "apple" in text for text in actual)
    assert "green apple beside a blue book" in actual
    assert "red apple beside a black book" in actual


def test_phrases_of_one_kind_are_exchanged():
    actual = exchanges(CAPTION, phrases(CAPTION, WORDS))
    assert actual == [
        Negative("The green horse eats brown grass", "adjective"),
        Negative("The brown grass eats green horse", "noun"),
    ]
    assert exchanges("left arrow curving right", phrases("left arrow curving right", GROUPS)) == [
        Negative("right arrow curving left", "direction")
    ]


def test_joined_equal_or_overlapping_phrases_are_not_exchanged():
    assert exchanges("a cat and a horse", phrases("a cat and horse", WORDS)) == []
    assert exchanges("cat and horse", phrases("cat and horse", WORDS)) == []
    assert exchanges("cat cat", phrases("cat cat", WORDS)) == []
    overlapping = [Span(0, 9, "noun"), Span(4, 9, "noun")]
    assert exchanges("the horse", overlapping) == []


def test_reorderings_move_the_named_words_only():
    caption = "The brown horse quickly eats the green grass of home."
    spans = phrases(caption, WORDS)
    actual = dict(negative[::-1] for key in range(5) for negative in reorderings(caption, spans, key))
    assert set(actual) == {"nouns_and_adjectives", "all_but_nouns_and_adjectives", "trigrams", "within_trigrams"}
    words = caption[:-1].split()
    content = {"brown", "horse", "green", "grass"}
    for kind, text in actual.items():
        moved = text[:-1].split()
        assert sorted(moved) == sorted(words)
        assert text != caption
        stays = {
            "nouns_and_adjectives": [w for w in words if w not in content],
            "all_but_nouns_and_adjectives": [w for w in words if w in content],
        }.get(kind, [])
        assert [w for w in moved if w in stays] == stays
        assert all(moved[words.index(w)] == w for w in stays)
    threes = {tuple(words[i : i + 3]) for i in range(0, 10, 3)}
    trigrams = actual["trigrams"][:-1].split()
    assert all(any(trigrams[i : i + len(t)] == list(t) for i in range(10)) for t in threes)
    within = actual["within_trigrams"][:-1].split()
    assert [sorted(within[i : i + 3]) for i in range(0, 10, 3)] == [sorted(words[i : i + 3]) for i in range(0, 10, 3)]


def test_reorderings_depend_on_the_key_only():
    spans = phrases(CAPTION, WORDS)
    assert reorderings(CAPTION, spans, 7) == reorderings(CAPTION, spans, 7)
    assert len({tuple(reorderings(CAPTION, spans, key)) for key in range(20)}) > 10
    assert reorderings("word", [], 0) == []
    assert reorderings("", [], 0) == []


def test_draw_gives_each_kind_with_equal_probability():
    negatives = [Negative(str(i), "many") for i in range(9)] + [Negative("one", "few")]
    counts = np.mean([draw(negatives, key).kind == "few" for key in range(1000)])
    assert counts == pytest.approx(0.5, abs=0.05)  # three standard errors of a coin
    assert {draw(negatives, key).text for key in range(300)} == {*map(str, range(9)), "one"}
    assert draw(negatives, 5) == draw(negatives, 5)
    assert draw([], 5) is None


def test_spacy_spans_are_words_and_noun_phrases():
    def token(text, at, pos):
        return SimpleNamespace(text=text, idx=at, pos_=pos)

    class Doc(list):
        noun_chunks = (SimpleNamespace(start_char=0, end_char=15), SimpleNamespace(start_char=21, end_char=32))

    tokens = [
        ("The", "DET"),
        ("brown", "ADJ"),
        ("horse", "NOUN"),
        ("eats", "VERB"),
        ("green", "ADJ"),
        ("grass", "NOUN"),
    ]
    doc = Doc(token(text, CAPTION.index(text), pos) for text, pos in tokens)
    spans = spacy_spans(doc)
    assert {CAPTION[s.start : s.end] for s in spans if s.kind == "noun_phrase"} == {"The brown horse", "green grass"}
    assert texts(exchanges(CAPTION, spans), "noun_phrase") == ["Green grass eats The brown horse"]
    assert texts(exchanges(CAPTION, spans), "noun") == ["The brown grass eats green horse"]


def test_missing_spacy_model_is_reported():
    with pytest.raises(UsageError, match=r"spaCy's model 'no_such_model' tags the captions, and cannot be loaded"):
        tagger("no_such_model")
    assert [s.kind for s in tagger()("red heart")] == ["adjective", "noun"]


def test_lexicons_contain_each_phrase_once():
    for name in ("swaps.txt", PARTS_OF_SPEECH):
        present = [phrase.lower() for group in read(package=name) for phrase in group.phrases]
        assert len(present) == len(set(present))
    with pytest.raises(UsageError, match="mine, line 2: expected a kind and its phrases"):
        parse("a: b\nno kind", "mine")
