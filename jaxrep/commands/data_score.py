"""Score the pairs of a source by a model: the cosine similarity of image and text, a column by which data are filtered.

Writes similarity float32 [n], NaN for unreadable pairs, and beside it key (the name of an example) and index (its place
in the data). Unreadable pairs are counted with the reason, also in a summary beside the scores. The same command
resumes an interrupted job. Filter(source=WithEmbeddings(...)) keeps the pairs that a score is high enough for.
"""

from typing import TYPE_CHECKING, Any

from jaxrep.commands.data import tool_parser
from jaxrep.commands.embed import add_job_options, run
from jaxrep.commands.models import add_arguments

if TYPE_CHECKING:
    from jaxrep.embeddings.job import Compute, Job
    from jaxrep.model import Model


def main(args: list[str]) -> int:
    """Run ``jaxrep data score SOURCE --model M --out FILE [--per-shard N] [--share I/N] [--batch-size N] ...``."""
    parser = tool_parser("score", __doc__, "pairs of images and texts")
    add_arguments(parser, "MODEL", "a run directory, or the folder of a public checkpoint", option="--model")
    add_job_options(parser)
    options = parser.parse_args(args)

    def declare(model: "Model", **rest: Any) -> "tuple[Job, Compute]":
        from jaxrep.embeddings.scores import scoring_job

        return scoring_job(model, options.source, options.out, **rest)

    return run(options, declare, "scoring", "scored")
