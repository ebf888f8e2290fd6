"""Plan a training step on devices that need not exist: memory, FLOPs, collectives, time. Nothing is allocated."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxrep.commands.models import add_trust, number
from jaxrep.commands.recipes import EXPERIMENT, find, override, split
from jaxrep.errors import UsageError
from jaxrep.plan.topology import devices, memory_bytes, prepare

if TYPE_CHECKING:
    from jaxrep.plan.plan import Plan
    from jaxrep.recipe import Recipe

    Planner = Callable[[Recipe], Plan]


def main(args: list[str]) -> int:
    """Run ``jaxrep plan EXPERIMENT --topology v5e:16x16 [OPTIONS] [--field.path VALUE …]``."""
    options = _options()
    add_trust(options)
    target, given, fields = split(args, options, f"{EXPERIMENT}; or a run directory")
    prepare(given.topology)
    recipe = override(find(target, given), fields, f"jaxrep plan {target}", options.format_help()).recipe
    if not given.topology:
        raise UsageError("--topology is missing: the devices to plan for, such as v5e:16x16 or cpu:8")

    if given.find and (given.find_batch or given.layout):
        raise UsageError("--find prints several settings: leave out --find-batch (--find batch does it) and --layout")

    from jaxrep.plan.report import array_table, as_json, memory_problem, summary

    if given.find:
        return _find(recipe, given)
    plan = _plan(recipe, given)
    problem = memory_problem(recipe, plan)
    if given.json:
        print(json.dumps(as_json(plan, problem), indent=1))
    else:
        print("\n".join([*summary(plan), *(array_table(plan) if given.layout else [])]))
    if problem:
        print(f"jaxrep: {problem}", file=sys.stderr)
    return 1 if problem else 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser("jaxrep plan", description=__doc__, add_help=False, allow_abbrev=False, usage="")
    options.add_argument(
        "--topology",
        default="",
        help="TPU chips, as v5e:16x16, v4:2x2x4, v5p:8x8x16 or v6e:16x16 (extra: tpu), or simulated, as cpu:256",
    )
    options.add_argument("--find-batch", action="store_true", help="find the largest data.batch-size that fits")
    options.add_argument(
        "--find",
        metavar="remat,microbatch,batch",
        type=_fields,
        help="try the combinations of these fields, and print those that need the least memory for their FLOPs",
    )
    options.add_argument("--memory", metavar="GIB", type=number(1e-9), help="memory per device (default: the chip's)")
    options.add_argument(
        "--generate-code",
        action="store_true",
        help="compile for TPUs to the end, in minutes: what only the generation of code refuses is found too",
    )
    options.add_argument("--layout", action="store_true", help="print how each array is sharded")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def _fields(text: str) -> list[str]:
    fields = text.split(",")
    if not set(fields) <= {"remat", "microbatch", "batch"} or len(set(fields)) != len(fields):
        raise argparse.ArgumentTypeError(f"expected some of remat,microbatch,batch, each once, got {text!r}")
    return fields


def _find(recipe: "Recipe", given: argparse.Namespace) -> int:
    """Print the settings that a search found."""
    from jaxrep.plan.report import front_json, front_table
    from jaxrep.plan.search import search

    chips = devices(given.topology)
    found = search(recipe, given.find, len(chips), _printing(_planner(given, chips, "batch" in given.find)))
    print(json.dumps(front_json(found), indent=1) if given.json else "\n".join(front_table(found)))
    if not found:
        print("jaxrep: none of the settings fits: try more devices, or a smaller data.batch-size", file=sys.stderr)
    return 0 if found else 1


def _plan(recipe: "Recipe", given: argparse.Namespace) -> "Plan":
    from jaxrep.plan.plan import largest_batch

    chips = devices(given.topology)
    planned = _planner(given, chips, given.find_batch)
    return largest_batch(recipe, len(chips), _printing(planned)) if given.find_batch else planned(recipe)


def _planner(given: argparse.Namespace, chips: Sequence[Any], limited: bool) -> "Planner":
    """Return the function that plans a recipe: on TPUs without generating code, unless that is asked for.

    ``limited``: whether the memory of a device must be known.
    """
    from jaxrep.plan.layout_process import plan_layout
    from jaxrep.plan.plan import plan

    available = memory_bytes(chips[0]) if given.memory is None else int(given.memory * 2**30)
    if limited and available is None:
        option = "--find batch" if given.find else "--find-batch"
        raise UsageError(f"{option} needs the memory of a device of {given.topology}: give --memory GIB")
    if given.generate_code or chips[0].platform != "tpu":
        return lambda recipe: plan(recipe, chips, available)
    return lambda recipe: plan_layout(recipe, given.topology, available)


def _printing(planned: "Planner") -> "Planner":
    """Print a line on each plan as it is made."""
    from jaxrep.plan.report import one_line
    from jaxrep.spec import walk

    def printed(recipe: "Recipe") -> "Plan":
        plan = planned(recipe)
        remats = dict.fromkeys(str(part.remat) for _, part in walk(recipe) if hasattr(part, "remat"))
        print(one_line(plan, "/".join(remats)), file=sys.stderr, flush=True)
        return plan

    return printed
