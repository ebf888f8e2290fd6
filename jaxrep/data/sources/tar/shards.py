"""Read image-text pairs from tar files in WebDataset's layout: the members of one key form an example.

A member's name is its key up to the first dot of the last folder, then its extension: ``000/12.jpg`` and
``000/12.txt`` are the image and the caption of the example ``000/12``. The headers of a tar are read once, and its
index is kept beside it or in the cache, so that every order reads as fast as the order of the file. The index of a
shard is in memory while it is used: memory does not grow with the number of examples.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedSource
from jaxrep.data.sources.numbers import Numbers
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar.examples import SHOWN_ENDINGS, TarExamples
from jaxrep.data.sources.tar.index import Extensions
from jaxrep.data.sources.tar.manifest import Shard, endings_of, index_shards
from jaxrep.data.sources.tar.members import Member
from jaxrep.errors import UsageError
from jaxrep.spec import spec

MAX_UNREAD_SHARE = 0.01
"""Members that are not read, per example, without a word."""


@spec
class TarShards(EncodedSource):
    """Read the examples in tar files, shard after shard (WebDataset's layout)."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces (train-{00000..00099}.tar) and globs (*.tar)."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Extensions of images; empty: none."""
    text: str = "txt"
    """Extension of captions, or a path in a member of JSON (json:caption), also to a list of captions; empty: none."""
    label: str = ""
    """Extension of class numbers, often cls, or a path in JSON; empty: none."""
    captions: tuple[str, ...] = ()
    """Extensions or paths of further captions: each is a field of this name, or of the last name of the path."""
    numbers: Mapping[str, str | Numbers] = dataclasses.field(default_factory=dict)
    """Fields of numbers: where each is; an extension (npy) or a path (json:similarity) alone is one float32."""
    metadata: str = "json"
    """Extension of metadata, an object in JSON; read only when one of its columns is read, and no table beside the tar
    has it (00000.parquet, with a column of keys)."""

    def members(self) -> dict[str, Member]:
        """Return where each part is."""
        single = {"text": self.text, "label": self.label} | dict(
            zip(self.further_captions(), self.captions, strict=True)
        )
        single |= {name: numbers.at for name, numbers in self.number_parts().items()}
        image = {"image": Member(self.image)} if self.image else {}
        named = {part: Member.parse(where) for part, where in single.items() if where or part in self.numbers}
        return image | named

    def further_captions(self) -> tuple[str, ...]:
        return tuple(where.rpartition(":")[2].rpartition(".")[2] if ":" in where else where for where in self.captions)

    def number_parts(self) -> Mapping[str, Numbers]:
        named = self.numbers.items()
        return {name: Numbers(at=where) if isinstance(where, str) else where for name, where in named}

    def extensions(self) -> dict[str, tuple[str, ...]]:
        """Return the extensions of each part, the preferred one first."""
        return {part: member.extensions for part, member in self.members().items()}

    def parts(self) -> tuple[str, ...]:
        return tuple(self.members())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for part, member in self.members().items():
            if part == "image" and any(":" in extension for extension in member.extensions):
                yield f"an image is a member of its own, and {':'.join(member.extensions)} is a path in JSON"
            if not all(member.extensions) or member.path == "":
                yield f"{part} is an extension, or EXTENSION:PATH as json:caption, not {member}"

    def open(self) -> Examples:
        shards = index_shards(files(self.shards))
        members = {**self.members(), "metadata": Member((self.metadata,))}
        examples = TarExamples(self, members, shards, _count_examples(self, shards))
        endings = endings_of(shards)
        there = ", ".join(f".{ending[:40]}" for ending in sorted(endings)[:SHOWN_ENDINGS])
        for part, names in self.extensions().items():
            if not endings.intersection(names):
                raise UsageError(
                    f"the tars of {self.shards!r} have no member that ends in .{' or .'.join(names)}, of which {part} "
                    f"is read; there are: {there}{examples.describe_metadata(self.metadata)}. Name its ending in the "
                    "source, or read examples without it (text= in a source string)"
                )
        examples.check_paths()
        return examples


def _count_examples(source: TarShards, shards: Sequence[Shard]) -> list[int]:
    """Count the examples of each shard; say what is not read. Raises UsageError: there is no example."""
    extensions = list(source.extensions().values())
    counts = [shard.summary.count_examples(extensions) for shard in shards]
    damage = [f"; {shard.path}: {text}" for shard in shards for text in shard.summary.damage]
    wanted = ", ".join(dict.fromkeys(f".{name}" for names in extensions for name in names))
    unread, endings = _unread_members(shards, extensions)
    if sum(counts) == len(damage):
        reasons = "".join([f"; there are: {endings}"] * (unread > 0) + damage[:1])
        raise UsageError(f"the tars of {source.shards!r} have no member that ends in {wanted}{reasons}")
    if unread > MAX_UNREAD_SHARE * sum(counts):
        print(
            f"the tars of {source.shards!r} have {unread} members that are not read, since their keys have no member "
            f"that ends in {wanted} (a key ends at the first dot of a name): {endings}",
            file=sys.stderr,
        )
    kinds = sum((Counter(shard.summary.kinds) for shard in shards), Counter())
    if images := sum(count for kind, count in kinds.items() if len({*source.image} & {*kind.split("/")}) > 1):
        order = ", ".join(f".{name}" for name in source.image)
        print(
            f"the tars of {source.shards!r} have {images} examples with several images, of which the first of {order} "
            "is read",
            file=sys.stderr,
        )
    return counts


def _unread_members(shards: Sequence[Shard], extensions: Extensions) -> tuple[int, str]:
    """Count the members of keys that have none of the extensions, and list their endings."""
    endings: Counter[str] = Counter()
    for shard in shards:
        for kind, count in shard.summary.unread(extensions).items():
            endings.update(dict.fromkeys(kind.split("/"), count))
    shown = [f".{ending[:40]} ({count})" for ending, count in endings.most_common(SHOWN_ENDINGS)]
    return endings.total(), ", ".join(shown + ["..."] * (len(endings) > SHOWN_ENDINGS))
