"""Run the two passes of ``jaxrep.data.tools.curate`` as an Apache Beam pipeline, on any of its runners (extra: beam).

Beam distributes the chunks and adds up their counts. The result of a chunk is written by the same function as on one
machine, so the files are the same, and each can continue the other's work. All workers need jaxrep, the source and the
folder.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

from jaxrep.data.tools.curate import Plan, add_up, match_chunk, sample_chunk, save_counts, save_report
from jaxrep.data.tools.resume import write_or_compare
from jaxrep.extras import import_extra
from jaxrep.storage import read_bytes


def curate(plan: Plan, options: Sequence[str]) -> dict[str, Any]:
    """Run what is missing of both passes and return the report; ``options``: Beam's, such as --runner=….

    Raises UsageError: Beam is not installed, or as on one machine.
    """
    beam = import_extra("apache_beam", "beam")
    pipeline_options = import_extra("apache_beam.options.pipeline_options", "beam").PipelineOptions(list(options))
    write_or_compare(f"{plan.folder}/plan.json", plan.to_json(), plan.folder, "curation")
    total = functools.partial(add_up, plan.entries)
    with beam.Pipeline(options=pipeline_options) as pipeline:
        chunks = pipeline | beam.Create(list(plan.chunks)) | beam.Reshuffle()
        results = chunks | "match" >> beam.Map(lambda chunk: match_chunk(plan, chunk))
        matched = results | "count" >> beam.CombineGlobally(total)
        totals = beam.pvalue.AsSingleton(matched)
        # The second pass reads the counts from their file, and waits until it is written.
        counted = beam.pvalue.AsSingleton(
            matched | "write counts" >> beam.Map(lambda matched: save_counts(plan, matched))
        )
        results = chunks | "sample" >> beam.Map(lambda chunk, _: sample_chunk(plan, chunk), counted)
        kept = results | "count kept" >> beam.CombineGlobally(total)
        _ = kept | "report" >> beam.Map(lambda kept, matched: save_report(plan, matched, kept), totals)
    return json.loads(read_bytes(f"{plan.result}/curation.json"))
