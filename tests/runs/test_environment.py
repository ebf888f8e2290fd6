import datetime
import json
import subprocess
import sys

import jax
import jaxlib.version

from jaxrep.runs.environment import environment, git_state, version


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_environment_is_json_and_says_versions_devices_command_and_time():
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["jaxlib"] == jaxlib.version.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["devices"] == {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
        "process_count": 1,
    }
    assert found["command"] == sys.argv
    assert before <= datetime.datetime.fromisoformat(found["started"]) <= datetime.datetime.now(datetime.UTC)


def test_a_package_that_is_not_installed_has_no_version():
    assert version("a-package-that-nobody-has") is None


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("a")
    assert git_state(tmp_path) is None  # no commit yet
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "untracked").write_text("a")
    assert git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("b")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_a_folder_inside_of_another_repository_is_not_taken_for_it(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages") is None


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
