"""Compute the published splits of OpenMoji; ``python -m tests.helpers.openmoji_split`` writes the lists again.

Images that are equal pixel for pixel at 64 x 64 go to the same side. Groups of equal images are held out in the order
of a hash of their first code points, so the order depends on nothing else.
"""

import collections
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jaxrep.data.openmoji
from jaxrep.data.openmoji.emoji import ATTRIBUTION, Emoji, draw_emojis, factorize, load_emojis

REFERENCE_SIZE = 64
_HEAD = "# Code points that are held out of OpenMoji 17.0.0 with Unicode 17 names. {attribution}.\n# {rule}\n"
RULES = {
    "compositional": "A fifth of the toned pictures of concepts with six forms or more; equal pictures together.",
    "random": "A tenth of all pictures; equal pictures together.",
}


def compositional(emojis: Sequence[Emoji], image_ids: Sequence[int]) -> list[str]:
    """Return the codes of a fifth of the images that show a skin tone and whose concept has at least six forms."""
    forms = collections.Counter(emoji.concept for emoji in emojis)
    candidates = [bool(emoji.tones) and forms[emoji.concept] >= 6 for emoji in emojis]
    return _hold_out(emojis, image_ids, candidates, share=5)


def random(emojis: Sequence[Emoji], image_ids: Sequence[int]) -> list[str]:
    """Return the codes of a tenth of all images."""
    return _hold_out(emojis, image_ids, [True] * len(emojis), share=10)


def _hold_out(emojis: Sequence[Emoji], ids: Sequence[int], candidates: Sequence[bool], share: int) -> list[str]:
    groups: dict[int, list[int]] = {}
    for index, identity in enumerate(ids):
        groups.setdefault(identity, []).append(index)
    groups = {key: group for key, group in groups.items() if all(candidates[index] for index in group)}
    wanted, out = sum(map(len, groups.values())) // share, []
    for group in sorted(groups.values(), key=lambda group: hashlib.sha256(emojis[group[0]].code.encode()).digest()):
        if len(out) + len(group) <= wanted:
            out.extend(group)
    return [emojis[index].code for index in sorted(out)]


def lists() -> dict[str, str]:
    """Return split -> the text of its published file."""
    emojis = load_emojis()
    ids = factorize([image.tobytes() for image in draw_emojis(REFERENCE_SIZE)]).tolist()
    chosen = {"compositional": compositional(emojis, ids), "random": random(emojis, ids)}
    return {
        split: _HEAD.format(attribution=ATTRIBUTION, rule=RULES[split]) + "\n".join(codes) + "\n"
        for split, codes in chosen.items()
    }


if __name__ == "__main__":
    for split, text in lists().items():
        Path(*jaxrep.data.openmoji.__path__, f"{split}.txt").write_text(text, encoding="utf-8")
