"""The JobSet has fields that its CRD knows and starts again what was preempted; the page names what is to be set."""

import json
import re
import string
from pathlib import Path

import jsonschema
import pytest
import yaml

from jaxrep.runs.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch" / "gke_jobset.yaml").read_text()
PAGE = (ROOT / "docs" / "launch.md").read_text()
VARIABLES = {
    "NAME": "l14",
    "IMAGE": "somewhere/jaxrep:1",
    "ACCELERATOR": "tpu-v5-lite-podslice",
    "TOPOLOGY": "16x16",
    "HOSTS": "64",
    "CHIPS": "4",
    "SLICES": "2",
    "TRAIN": "experiments/clip.py:vit_l14 --data.note 'a: b # c' --run-dir gs://bucket/l14",
}
CRASHED = 139


@pytest.fixture(scope="module")
def jobset():
    """The JobSet as ``envsubst`` makes it."""
    return yaml.safe_load(string.Template(TEXT).substitute(VARIABLES))


@pytest.fixture(scope="module")
def schema():
    return json.loads(Path(__file__).with_name("jobset.schema.json").read_text())


def test_the_jobset_is_valid(jobset, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(jobset)


@pytest.mark.parametrize("path, value", [(("maxRestart",), 3), (("rules", 0, "action"), "Restart")])
def test_the_schema_refuses_an_unknown_field_and_an_unknown_value(jobset, schema, path, value):
    wrong = json.loads(json.dumps(jobset))
    place = wrong["spec"]["failurePolicy"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def action(jobset, status=None, condition=None):
    """What JobSet does when a pod ends with this status, or because of this condition: the rules of Kubernetes' Job
    controller, which gives the job a reason and a message, and then those of JobSet for these."""
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
        if status in rule.get("onExitCodes", {}).get("values", ()):
            reason = "PodFailurePolicy"
            message = (
                f"Container jaxrep for pod default/l14-slice-0-3 failed with exit code {status} matching FailJob "
                f"rule at index {index}"
            )
            break
        if condition in [pattern["type"] for pattern in rule.get("onPodConditions", ())]:
            reason = "PodFailurePolicy"
            message = f"Pod default/l14-slice-0-3 has condition {condition} matching FailJob rule at index {index}"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    "status, expected",
    [
        (ExitCode.USAGE, "FailJobSet"),
        (ExitCode.DIVERGED, "FailJobSet"),
        (ExitCode.PREEMPTED, "RestartJobSetAndIgnoreMaxRestarts"),
        (ExitCode.FAILED, "RestartJobSet"),
        (CRASHED, "RestartJobSet"),
    ],
)
def test_a_jobset_goes_on_without_limit_after_preemption_and_ends_where_it_would_end_so_again(jobset, status, expected):
    assert action(jobset, int(status)) == expected


def test_a_node_that_is_taken_counts_as_preemption(jobset):
    assert action(jobset, condition="DisruptionTarget") == "RestartJobSetAndIgnoreMaxRestarts"


def test_exit_codes_in_patterns_are_those_of_the_rules(jobset):
    rules = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    codes = [set(rule["onExitCodes"]["values"]) for rule in rules if "onExitCodes" in rule]
    assert codes == [{ExitCode.USAGE, ExitCode.DIVERGED}, {ExitCode.PREEMPTED}]


def test_a_failed_host_fails_its_job_at_once_and_all_hosts_of_a_slice_are_there(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["parallelism"] == job["completions"] == 64
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2


def test_the_command_is_the_given_one_in_the_place_of_the_shell(jobset):
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    assert container["args"] == [f"exec jaxrep train {VARIABLES['TRAIN']}"]
    assert container["env"] == [{"name": "JAXREP_HOSTS", "value": "auto"}]


def test_the_page_names_every_variable():
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(VARIABLES)
    assert all(f"`{name}`" in PAGE for name in VARIABLES)


def test_the_page_s_table_has_the_exit_statuses():
    rows = dict(re.findall(r"^\| (\d+) \| (\w+) \|", PAGE, re.MULTILINE))
    assert {int(status): name for status, name in rows.items()} == {status: status.name.lower() for status in ExitCode}
