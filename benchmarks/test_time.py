"""Sum the time of tests: the part that stays, the part per experiment, and the whole for a number of experiments.

    pytest -m "" --junitxml tests.xml && python -m benchmarks.test_time tests.xml

The reports hold the processor seconds of each test and its child processes (``tests/conftest.py``), without the imports
of the processes. The part of an experiment is that of its tests in tests/conformance/test_experiments.py, and of the
training of the runs from which it starts, if no earlier test of the process trained them.
"""

import argparse
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path
from statistics import mean

EXPERIMENTS = "tests.conformance.test_experiments"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", metavar="REPORT.xml", type=Path, nargs="+", help="JUnit files of pytest")
    parser.add_argument("--count", type=int, default=100, help="number of experiments to sum for")
    parser.add_argument("--list", action="store_true", help="print the seconds of each experiment, the slowest first")
    given = parser.parse_args()
    fixed, experiments = seconds(given.reports)
    ranked = sorted(experiments.items(), key=lambda item: -item[1])
    print(f"fixed: {fixed / 60:.1f} min of processor time")
    if not ranked:
        return
    name, worst = ranked[0]
    print(f"{len(ranked)} experiments: {mean(experiments.values()):.1f} s each, at most {worst:.1f} s ({name})")
    whole = fixed + given.count * mean(experiments.values())
    print(f"sum for {given.count} experiments: {whole / 60:.1f} min of processor time")
    if given.list:
        print("\n".join(f"  {name:<24} {value:6.1f} s" for name, value in ranked))


def seconds(reports: list[Path]) -> tuple[float, dict[str, float]]:
    """Return the seconds of all tests that do not belong to an experiment, and those of each experiment."""
    fixed, experiments = 0.0, defaultdict(float)
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):
            values = {item.get("name"): float(str(item.get("value"))) for item in case.iter("property")}
            spent = values.get("processor_seconds", float(case.get("time", 0)))
            parameter = str(case.get("name")).partition("[")[2]
            if str(case.get("classname")) == EXPERIMENTS and ":" in parameter:
                experiments[parameter.partition(":")[0]] += spent
            else:
                fixed += spent
    return fixed, dict(experiments)


if __name__ == "__main__":
    main()
