"""The recipes of SLURM, Kubernetes and SkyPilot, held against the formats of those who read them.

The readers themselves are asked where they are installed: `tools/check_recipes.sh` installs them.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
SCRIPTS = sorted([*TOOLS.glob("*.sh"), *TOOLS.glob("slurm/*"), ROOT / ".ci/run"])

# Fields of kubeflow.org/v1 PyTorchJob that are plain values, by the definition of release 1.9.
FIELDS: dict[str, dict[str, Any]] = {
    "elasticPolicy": {
        "maxReplicas": int, "maxRestarts": int, "minReplicas": int, "rdzvBackend": str,
        "rdzvHost": str, "rdzvId": str, "rdzvPort": int, "standalone": bool,
    },
    "runPolicy": {
        "activeDeadlineSeconds": int, "backoffLimit": int, "cleanPodPolicy": str,
        "managedBy": str, "suspend": bool, "ttlSecondsAfterFinished": int,
    },
    "replica": {"replicas": int, "restartPolicy": str, "template": dict},
}  # fmt: skip
SPEC = {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"}


def tool(module: str, package: str) -> Any:
    """Import a reader of a recipe, or skip."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        pytest.skip(f"needs {package}: run tools/check_recipes.sh")


@pytest.fixture
def job() -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((TOOLS / "kubernetes/pytorchjob.yaml").read_text())
    return job


@pytest.fixture
def pod(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    return pod


def variables(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}


def test_pytorchjob_has_the_fields_of_its_definition(job):
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job["metadata"]["name"])  # DNS-1035
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    spec = job["spec"]
    assert spec.keys() == SPEC
    assert isinstance(spec["nprocPerNode"], str)
    assert spec["pytorchReplicaSpecs"].keys() == {"Worker"}  # what an elastic policy needs
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    for name, given in (*spec.items(), ("replica", worker)):
        for key, value in given.items() if name in FIELDS else ():
            assert type(value) is FIELDS[name][key], (name, key)
    assert spec["runPolicy"]["cleanPodPolicy"] in {"None", "Running", "All"}
    assert worker["restartPolicy"] in {"Always", "OnFailure", "Never", "ExitCode"}
    policy = spec["elasticPolicy"]
    assert policy["minReplicas"] <= worker["replicas"] <= policy["maxReplicas"]


def test_pytorchjob_gives_ranks_time_memory_and_devices(job, pod):
    container = pod["containers"][0]
    assert container["name"] == "pytorch"
    assert container["image"]
    # a rank saves, then torchrun ends, then the grace period
    seconds = int(variables(pod)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    assert 300 <= seconds <= pod["terminationGracePeriodSeconds"] - 30
    limits = container["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == job["spec"]["nprocPerNode"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert len(mounts) == len(volumes)
    memory = mounts["/dev/shm"]["emptyDir"]
    assert memory["medium"] == "Memory"
    assert int(memory["sizeLimit"].removesuffix("Gi")) < int(limits["memory"].removesuffix("Gi"))
    words = container["args"][2:]
    folder = Path(words[words.index("--trainer.default_root_dir") + 1])
    assert "persistentVolumeClaim" in mounts[str(folder.parent)]
    assert variables(pod)["CLIPKIT_CACHE"] in mounts
    assert (ROOT / words[words.index("-c") + 1]).is_file()
    # the kubelet would replace $(NAME) before bash reads it
    assert not any("$(" in word for word in container["args"])


def test_pytorchjob_passes_the_operators_variables_on(pod, tmp_path):
    launched = command_of(pod, tmp_path, PET_NNODES="1:2", PET_NPROC_PER_NODE="8",
                          PET_MAX_RESTARTS="5", PET_RDZV_ENDPOINT="localhost:23456")  # fmt: skip
    words = launched["words"]
    given = dict(pairwise(words))
    assert given["--nnodes"] == "1:2"
    assert given["--nproc_per_node"] == "8"
    assert given["--max_restarts"] == "5"
    assert given["--rdzv_endpoint"] == "localhost:23456"
    assert given["--rdzv_conf"] == variables(pod)["RDZV_CONF"]
    assert words[-len(pod["containers"][0]["args"][2:]) :] == pod["containers"][0]["args"][2:]
    assert launched["seconds"] == variables(pod)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]


def test_a_pod_that_waits_for_the_first_one_can_be_ended(pod, tmp_path):
    (tmp_path / "getent").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked; exit 2\n")
    (tmp_path / "getent").chmod(0o755)
    container = pod["containers"][0]
    variables = {"PET_RDZV_ENDPOINT": "worker:1", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [*container["command"], *container["args"]], env={**os.environ, **variables}, cwd=ROOT
    )
    until = time.monotonic() + 60
    while not (tmp_path / "asked").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 143


def command_of(pod: dict[str, Any], folder: Path, **operator: str) -> dict[str, Any]:
    """Run the container's command in this checkout; return what it would start torchrun with."""
    python = folder / "python"
    python.write_text(
        '#!/bin/sh\nfor word in "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"; do '
        f"printf '%s\\0' \"$word\"; done > {folder}/started\n"
    )
    python.chmod(0o755)
    container = pod["containers"][0]
    subprocess.run(
        [*container["command"], *container["args"]],
        cwd=ROOT, env={**os.environ, **variables(pod), **operator, "PYTHON": str(python)},
        check=True, timeout=60,
    )  # fmt: skip
    seconds, *words = (folder / "started").read_text().split("\0")[:-1]
    return {"seconds": seconds, "words": words}


def test_pytorchjob_is_read_by_kubeflows_client(job):
    """A field that the client's models do not have would be lost on the way."""
    models = tool("kubeflow.training.models", "kubeflow-training")
    client = tool("kubernetes.client", "kubernetes")
    for name in dir(models):
        if name.startswith("KubeflowOrgV1"):
            setattr(client.models, name, getattr(models, name))
    api = client.ApiClient()
    read = api.deserialize(SimpleNamespace(data=json.dumps(job)), "KubeflowOrgV1PyTorchJob")
    assert api.sanitize_for_serialization(read) == job


def test_pytorchjob_has_a_valid_pod(job, pod):
    """By the schema of Kubernetes, without further fields."""
    validator = tool("kubernetes_validate", "kubernetes-validate")
    policy = job["spec"]["pytorchReplicaSpecs"]["Worker"]["restartPolicy"]
    document = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "clipkit-worker-0"},
        "spec": {**pod, "restartPolicy": policy},
    }  # fmt: skip
    for version in ("1.31", validator.latest_version()):
        validator.validate(document, version, strict=True)
    document["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(validator.ValidationError):
        validator.validate(document, version, strict=True)


def test_skypilot_task_has_the_fields_of_its_format():
    task = yaml.safe_load((TOOLS / "skypilot.yaml").read_text())
    assert task.keys() == {
        "name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run",
    }  # fmt: skip
    assert task["resources"].keys() == {"accelerators", "use_spot", "job_recovery"}
    for name in ("NNODES", "NODE_RANK", "PER_NODE", "MASTER_ADDR"):
        assert f"{name}=" in task["run"]
    subprocess.run(["bash", "-n"], input=task["run"], text=True, check=True)


def test_skypilot_reads_its_task(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    sky = tool("sky", "skypilot")
    task = sky.Task.from_yaml(str(TOOLS / "skypilot.yaml"))
    assert task.num_nodes == 2
    (resources,) = task.resources
    assert resources.use_spot
    assert resources.accelerators == {"H100": 8}
    assert task.envs["RUN"] == "clipkit-run"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_written_well(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("needs shellcheck: run tools/check_recipes.sh")
    done = subprocess.run([program, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sbatch_options_are_those_of_slurm():
    """`sbatch --test-only` needs a controller; the names and forms are compared instead."""
    text = (TOOLS / "slurm/fit.sbatch").read_text()
    head, options = [], {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            break
        head.append(line)
        if line.startswith("#SBATCH --"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            options[name] = value
    assert text.count("#SBATCH") == len(options)  # none behind the first command, where none counts
    forms = {
        "job-name": r"\w+", "nodes": r"\d+", "ntasks-per-node": r"\d+", "gpus-per-node": r"\d+",
        "cpus-per-task": r"\d+", "time": r"\d+:\d\d:\d\d", "requeue": "",
        "signal": r"USR1@\d+", "open-mode": "append", "output": r"\S+%j\S*",
    }  # fmt: skip
    assert options.keys() == forms.keys()
    for name, form in forms.items():
        assert re.fullmatch(form, options[name]), name
    assert options["ntasks-per-node"] == options["gpus-per-node"]
