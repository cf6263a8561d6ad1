"""What Kubernetes (Volcano) and AWS Batch are asked for: rendered, compared with kept files, and checked by schemas.

The files in `jobs/` are what `torchx run -s kubernetes --dryrun` and `-s aws_batch` print, without the random id of a
job. Kubernetes needs the package `kubernetes`, its schemas `kubernetes-validate`; AWS Batch's model is botocore's.
"""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.runner import get_runner

ROOT = Path(__file__).parents[2]
JOBS = Path(__file__).parent / "jobs"
OPTIONS = {"kubernetes": {"queue": "default"}, "aws_batch": {"queue": "default", "user": "somebody"}}
LINES = {
    "train": "--nproc 2 --nodes 2 --gpu 2 --cpu 6 --memory_mb 24000 --max_retries 3 --image "
    "registry.example/skipwise:1 --mounts type=bind,src=/mnt/data,dst=/data -- --data.path /data/mine "
    "--run-dir /data/runs/a",
    "prepare": "--cpu 3 --memory_mb 9000 --image registry.example/skipwise:1 --mounts "
    "type=volume,src=logs,dst=/data,readonly -- --input s3://logs/plays.parquet --output s3://logs/mine",
    "prepare-shards": "--shards 2 --cpu 3 --memory_mb 9000 --max_retries 3 --image registry.example/skipwise:1 "
    "--mounts type=volume,src=logs,dst=/data,readonly -- --input s3://logs/2026/ --output s3://logs/mine",
}
CASES = [(scheduler, job) for scheduler in OPTIONS for job in LINES]


def command_of(job: str) -> str:
    """What the component is called."""
    return job.partition("-")[0]


def rendered(scheduler: str, job: str) -> Any:
    """The job as the scheduler's server gets it."""
    pytest.importorskip("kubernetes" if scheduler == "kubernetes" else "boto3")
    with get_runner() as runner:
        component = f"{ROOT}/components/launch.py:{command_of(job)}"
        request = runner.dryrun_component(component, LINES[job].split(), scheduler, OPTIONS[scheduler]).request
    text = re.sub(rf"(skipwise-{command_of(job)})-[a-z0-9]{{8,}}", r"\1-ID", str(request))
    return yaml.safe_load(re.sub(r"://torchx[\w-]*/", "://torchx/", text))


def kept(scheduler: str, job: str) -> Any:
    return yaml.safe_load((JOBS / f"{scheduler}-{job}.yaml").read_text())


@pytest.mark.parametrize(("scheduler", "job"), CASES)
def test_jobs_are_those_that_were_read(scheduler: str, job: str):
    assert rendered(scheduler, job) == kept(scheduler, job)


@pytest.mark.parametrize("job", LINES)
def test_what_kubernetes_is_asked_for(job: str):
    """By the kept file alone, for what the options in `LINES` say; TorchX leaves 100m and 1024M of a node to others."""
    spec = kept("kubernetes", job)["spec"]
    expected = {
        "train": ({"cpu": "6000m", "memory": "24000M", "nvidia.com/gpu": "2"}, {"hostPath": {"path": "/mnt/data"}}),
        "prepare": ({"cpu": "3000m", "memory": "9000M"}, {"persistentVolumeClaim": {"claimName": "logs"}}),
    }
    expected["prepare-shards"] = expected["prepare"]
    assert len(spec["tasks"]) == {"train": 2, "prepare": 1, "prepare-shards": 2}[job]
    for number, task in enumerate(spec["tasks"]):
        pod = task["template"]["spec"]
        (container,) = pod["containers"]
        limits, volume = expected[job]
        assert container["resources"]["limits"] == limits and container["image"] == "registry.example/skipwise:1"
        assert {"name": "mount-0"} | volume in pod["volumes"]
        if job == "train":
            (line,) = container["command"][2:]
            # Volcano names a task's hosts in VC_TASK_HOSTS, in capitals and with underscores.
            first = spec["tasks"][0]["name"].upper().replace("-", "_")
            host = "TORCHX_RANK0_HOST" if number == 0 else f"VC_{first}_HOSTS"
            assert f"--rdzv_endpoint ${{{host}:=localhost}}:29500 " in line and "--nnodes 2 --nproc_per_node 2 " in line
            assert line.endswith("-m skipwise train --data.path /data/mine --run-dir /data/runs/a")
        if job == "prepare-shards":
            assert container["command"][2].endswith(f"--output s3://logs/mine --step all --shard {number}/2")
            assert task["maxRetry"] == 3 and {"event": "PodFailed", "action": "RestartJob"} in task["policies"]


@pytest.mark.parametrize("job", LINES)
def test_pods_fit_the_schema_of_kubernetes(job: str):
    validate = pytest.importorskip("kubernetes_validate").validate
    for task in kept("kubernetes", job)["spec"]["tasks"]:
        validate({"apiVersion": "v1", "kind": "Pod"} | task["template"], "1.31", strict=True)


@pytest.mark.parametrize("job", LINES)
def test_jobs_fit_the_model_of_aws_batch(job: str):
    """The calls that TorchX makes, by the description from which boto3 is made."""
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    model, request = session.get_service_model("batch"), kept("aws_batch", job)
    submitted = {"jobName": request["name"], "jobQueue": request["queue"], "jobDefinition": request["name"]}
    for operation, words in (("RegisterJobDefinition", request["job_def"]), ("SubmitJob", submitted)):
        shape = model.operation_model(operation).input_shape
        report = ParamValidator().validate(words, shape)
        assert not report.has_errors(), report.generate_report()
        assert words.keys() <= shape.members.keys()
    (nodes,) = request["job_def"]["nodeProperties"]["nodeRangeProperties"]
    if job == "prepare-shards":
        assert request["job_def"]["nodeProperties"]["numNodes"] == 2
        assert nodes["container"]["command"][2].endswith("--step all --shard $AWS_BATCH_JOB_NODE_INDEX/2")
    asked = {one["type"]: one["value"] for one in nodes["container"]["resourceRequirements"]}
    assert (
        asked
        == {
            "train": {"VCPU": "6", "MEMORY": "24000", "GPU": "2"},
            "prepare": {"VCPU": "3", "MEMORY": "9000"},
        }[command_of(job)]
    )


def test_a_wrong_job_does_not_fit():
    """That the checks above check."""
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("batch").operation_model("RegisterJobDefinition").input_shape
    wrong = kept("aws_batch", "train")["job_def"]
    wrong["nodeProperties"]["numNodes"] = "two"
    assert ParamValidator().validate(wrong, shape).has_errors()
    if validating := sys.modules.get("kubernetes_validate"):
        pod = kept("kubernetes", "train")["spec"]["tasks"][0]["template"]
        pod["spec"]["containers"][0]["ports"][0]["containerPort"] = "many"
        with pytest.raises(validating.ValidationError):
            validating.validate({"apiVersion": "v1", "kind": "Pod"} | pod, "1.31", strict=True)


@pytest.fixture
def first_process(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """What a pod runs, as the first process of a process namespace of its own, where no signal has a default effect."""
    (tmp_path / "sleepy.py").write_text("import pathlib, time\npathlib.Path('began').touch()\ntime.sleep(60)\n")
    isolated = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here")
    line = "torchrun --nnodes 1 --nproc_per_node 1 -m sleepy"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": f"{':'.join(sys.path[1:])}:{tmp_path}",
        "BASH_ENV": f"{ROOT}/components/torchrun.bash",
        "LOGLEVEL": "ERROR",
    }
    process = subprocess.Popen(
        [*isolated, "bash", "-c", line], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.ranks
def test_a_pod_that_is_stopped_hears_of_it(first_process: subprocess.Popen):
    (inside,) = Path(f"/proc/{first_process.pid}/task/{first_process.pid}/children").read_text().split()
    subprocess.run(["kill", "-TERM", inside], check=True)
    _, said = first_process.communicate(timeout=30)
    assert first_process.returncode == 143 and "skipwise: stopped by SIGTERM" in said
