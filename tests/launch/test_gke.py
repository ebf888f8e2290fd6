"""The JobSet is valid and restarts preempted runs; docs/launch.md describes its variables."""

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
    "TRAIN": "clip:vit_l14 --data.note 'a: b # c' --run-dir gs://bucket/l14",
}
CRASHED = 139


@pytest.fixture(scope="module")
def jobset():
    """Return the JobSet after ``envsubst``."""
    return yaml.safe_load(string.Template(TEXT).substitute(VARIABLES))


@pytest.fixture(scope="module")
def schema():
    return json.loads(Path(__file__).with_name("jobset.schema.json").read_text())


def test_jobset_is_valid(jobset, schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(jobset)


@pytest.mark.parametrize("path, value", [(("maxRestart",), 3), (("rules", 0, "action"), "Restart")])
def test_schema_refuses_unknown_fields_and_values(jobset, schema, path, value):
    wrong = json.loads(json.dumps(jobset))
    place = wrong["spec"]["failurePolicy"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def action(jobset, status=None, condition=None):
    """Return the action of JobSet for a pod that ends with this status, or by this condition.

    Kubernetes' Job controller gives the job a reason and a message, to which the rules of JobSet apply.
    """
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
def test_restart_policy_by_exit_status(jobset, status, expected):
    assert action(jobset, int(status)) == expected


def test_lost_node_counts_as_preemption(jobset):
    assert action(jobset, condition="DisruptionTarget") == "RestartJobSetAndIgnoreMaxRestarts"


def test_exit_codes_of_pod_rules(jobset):
    rules = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    codes = [set(rule["onExitCodes"]["values"]) for rule in rules if "onExitCodes" in rule]
    assert codes == [{ExitCode.USAGE, ExitCode.DIVERGED}, {ExitCode.PREEMPTED}]


def test_failed_host_fails_its_job(jobset):
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["parallelism"] == job["completions"] == 64
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == 2


def test_command_replaces_the_shell(jobset):
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"]
    assert container["args"] == [f"exec jaxrep train {VARIABLES['TRAIN']}"]
    assert container["env"] == [{"name": "JAXREP_HOSTS", "value": "auto"}]


def test_docs_name_every_variable():
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) == set(VARIABLES)
    assert all(f"`{name}`" in PAGE for name in VARIABLES)


def test_docs_list_the_exit_codes():
    rows = dict(re.findall(r"^\| (\d+) \| (\w+) \|", PAGE, re.MULTILINE))
    assert {int(status): name for status, name in rows.items()} == {status: status.name.lower() for status in ExitCode}
