"""Read the lines of a text file."""

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedSource, ListedExamples
from jaxrep.data.sources.patterns import local, read_utf8
from jaxrep.spec import spec


@spec
class TextLines(EncodedSource):
    """Read the lines of a text file, one text per line; the key of an example is its line."""

    path: str
    """The file, or its URL."""

    def parts(self) -> tuple[str, ...]:
        return ("text",)

    def open(self) -> Examples:
        path = local(self.path)
        return TextLineExamples(self, path, read_utf8(path).removesuffix("\n").split("\n"))


class TextLineExamples(ListedExamples):
    """Read the lines ``rows`` of the file ``path``."""

    def key(self, index: int) -> str:
        return self._rows[index]

    def content(self, index: int, part: str) -> bytes:
        return self._rows[index].encode()

    def place(self, index: int, part: str) -> str:
        return f"{self._path}, line {index + 1}"
