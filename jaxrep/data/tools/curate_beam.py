"""The two passes of ``jaxrep.data.tools.curate`` as an Apache Beam pipeline, for any of its runners (extra: beam).

Beam deals out the chunks and adds up their counts; what a pass finds of a chunk is written by the same function as on
one machine, so that the files are the same and either goes on where the other was stopped. All workers need jaxrep,
the source and the folder.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

from jaxrep.data.tools.curate import Part, Plan, Totals, match_chunk, prepare, sample_chunk, save_counts, save_report
from jaxrep.errors import UsageError
from jaxrep.storage import read


def curate(plan: Plan, options: Sequence[str]) -> dict[str, Any]:
    """Both passes over what is not there yet; ``options`` as Beam takes them, --runner=… among them. Gives the report.

    Raises UsageError: Beam is not installed, or as on one machine.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError("Apache Beam is not installed: pip install 'jaxrep[beam]'") from error
    prepare(plan)

    class Sum(beam.CombineFn):
        """Parts to totals."""

        def create_accumulator(self) -> Totals:
            return Totals(plan.entries)

        def add_input(self, totals: Totals, part: Part) -> Totals:
            return totals.add(part)

        def merge_accumulators(self, several: Sequence[Totals]) -> Totals:
            return functools.reduce(lambda a, b: a.add(b.part()), several, Totals(plan.entries))

        def extract_output(self, totals: Totals) -> Totals:
            return totals

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        chunks = pipeline | beam.Create(list(plan.chunks)) | beam.Reshuffle()
        parts = chunks | "match" >> beam.Map(lambda chunk: match_chunk(plan, chunk))
        found = parts | "count" >> beam.CombineGlobally(Sum())
        totals = beam.pvalue.AsSingleton(found)
        # The second pass reads the counts from their file, and waits until it is written.
        counted = beam.pvalue.AsSingleton(found | "write counts" >> beam.Map(_counted, plan))
        parts = chunks | "sample" >> beam.Map(lambda chunk, _: sample_chunk(plan, chunk), counted)
        kept = parts | "count kept" >> beam.CombineGlobally(Sum())
        _ = kept | "report" >> beam.Map(lambda kept, found: save_report(plan, found, kept), totals)
    return json.loads(read(f"{plan.result}/curation.json"))


def _counted(found: Totals, plan: Plan) -> int:
    """Writes the counts; the second pass waits for what is given back."""
    save_counts(plan, found)
    return found.pairs
