"""The files of deploy/, as far as one machine can check them: syntax, fields that must agree, what they start."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
OPTIONS = {
    *("--job-name", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time", "--signal"),
    *("--requeue", "--open-mode", "--output"),
}


def script(folder, name, text):
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path):
    """A torchrun that notes what it is told, a Slurm of two machines."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script(tools, "torchrun", f'printf "%s\\n" "$@" > {tmp_path}/told_$(echo "$2" | tr -dc 0-9)\nexit ${{CODE:-0}}')
    script(tools, "srun", 'shift\nfor id in 0 1; do SLURM_NODEID=$id "$@" || code=$?; done\nexit ${code:-0}')
    script(tools, "scontrol", f'[ "$1" = show ] && printf "left\\nright\\n" || echo "$@" >> {tmp_path}/requeued')
    return {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}


def told(folder, rank):
    words = (folder / f"told_{rank}").read_text().splitlines()
    options = dict(word.removeprefix("--").split("=", 1) for word in words[:5])
    assert words[5] == "packages/fpd-train/run.py"
    return options, words[6:]


@pytest.mark.parametrize("path", sorted([*DEPLOY.glob("*.sh"), *DEPLOY.glob("*.sbatch")]), ids=lambda path: path.name)
def test_shells_read_it(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.suffix == ".sbatch" or os.access(path, os.X_OK)


def test_deepspeed_reads_the_hostfile():
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(DEPLOY / "hostfile"))) == {"node-0": 8, "node-1": 8}
    variables = (DEPLOY / "deepspeed_env").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Z_]+=\S+", line) for line in variables)


def test_slurm_starts_every_machine_and_asks_again(tmp_path, machine):
    text = (DEPLOY / "slurm.sbatch").read_text()
    directives = re.findall(r"^#SBATCH (--[a-z-]+)", text, re.MULTILINE)
    assert set(directives) <= OPTIONS
    assert re.search(r"^#SBATCH --signal=TERM@(\d+)", text, re.MULTILINE)[1] >= "120"
    machine |= {"SLURM_NNODES": "2", "SLURM_JOB_ID": "50001", "SLURM_JOB_NODELIST": "x", "SLURM_GPUS_ON_NODE": "1"}
    command = ["bash", DEPLOY / "slurm.sbatch", "--config", "a b.json"]
    subprocess.run(command, env=machine, cwd=ROOT, check=True)
    for rank in (0, 1):
        options, words = told(tmp_path, rank)
        assert options == {
            "nnodes": "2",
            "node_rank": str(rank),
            "nproc_per_node": "1",
            "master_addr": "left",
            "master_port": str(20000 + 50001 % 20000),
        }
        assert words == ["--config", "a b.json"]
    assert not (tmp_path / "requeued").exists()
    for code, times in (("2", 0), ("130", 1), ("3", 2)):
        assert subprocess.run(command, env=machine | {"CODE": code}, cwd=ROOT, check=False).returncode == int(code)
        found = tmp_path / "requeued"
        assert (found.read_text().splitlines() if found.exists() else []) == ["requeue 50001"] * times


def test_the_fields_of_the_job_agree():
    service, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    spec = job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert (service["kind"], job["kind"], job["apiVersion"]) == ("Service", "Job", "batch/v1")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(env["NODES"])
    assert int(env["GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert pod["restartPolicy"] == "Never"  # what a policy for failures asks for
    assert pod["terminationGracePeriodSeconds"] > 25  # the run's own --grace
    failed, ignored = spec["podFailurePolicy"]["rules"]
    assert (failed["action"], failed["onExitCodes"]["values"]) == ("FailJob", [2])
    assert failed["onExitCodes"]["containerName"] == container["name"]
    assert ignored["action"] == "Ignore"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert all(isinstance(value, str) for value in env.values())


@pytest.mark.distributed
def test_two_machines_of_the_job_train_together(tmp_path, machine, launch):
    """Each pod's command, as Kubernetes would start it; what torchrun is told then trains, with its variables."""
    _, job = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    env = machine | {one["name"]: one["value"] for one in container["env"]}
    for index in ("0", "1"):
        command = [*container["command"], "--config", "run.json", "--set", "steps=1"]
        subprocess.run(command, env=env | {"JOB_COMPLETION_INDEX": index}, cwd=ROOT, check=True)
    found = [told(tmp_path, rank) for rank in (0, 1)]
    assert [options["node_rank"] for options, _ in found] == ["0", "1"]
    assert found[0][1] == found[1][1] == ["--config", "run.json", "--set", "steps=1"]
    code, output = launch(ranks=int(found[0][0]["nnodes"]), arguments=found[0][1][2:])
    assert code == 0, output
    assert (tmp_path / "run" / "done.json").is_file()


def again(tmp_path, codes, **variables):
    """Run a command that ends with each of `codes` in turn."""
    (tmp_path / "codes").write_text("\n".join(codes) + "\n")
    text = f"code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; exit $code"
    command = [DEPLOY / "preemptible.sh", script(tmp_path, "run", text)]
    result = subprocess.run(command, env=os.environ | {"PAUSE": "0"} | variables, check=False, capture_output=True)
    return result.returncode, (tmp_path / "codes").read_text().split()


def test_a_preempted_run_is_started_until_it_is_done(tmp_path):
    assert again(tmp_path, ["130", "3", "137", "0", "9"]) == (0, ["9"])
    assert again(tmp_path, ["130", "2", "0"]) == (2, ["0"])
    assert again(tmp_path, ["3", "3", "0"], ATTEMPTS="2") == (3, ["0"])


def test_a_machine_that_is_told_to_stop_tells_its_run(tmp_path):
    text = f"trap 'touch {tmp_path}/asked; exit 130' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    command = [DEPLOY / "preemptible.sh", script(tmp_path, "run", text)]
    process = subprocess.Popen(command, env=os.environ | {"PAUSE": "0"})
    until = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert (tmp_path / "asked").exists()


def test_a_bucket_gets_whole_checkpoints_and_then_the_pointer(tmp_path):
    run, bucket = tmp_path / "run", tmp_path / "bucket"
    whole, partial = run / "checkpoints" / "step_000010", run / "checkpoints" / "step_000020"
    for folder in (whole / "student", partial):
        folder.mkdir(parents=True)
    (whole / "student" / "weights.pt").write_text("w")
    (whole / "manifest.json").write_text("{}")
    (run / "checkpoints" / "latest").write_text("step_000010")
    (run / "config.json").write_text(json.dumps({"steps": 1}))
    log = tmp_path / "log"
    copy = script(tmp_path, "copy", f'echo "$2" >> {log}; mkdir -p "$2"; cp -r "$1"/. "$2"')
    env = os.environ | {"COPY": str(copy)}
    subprocess.run([DEPLOY / "bucket.sh", "push", run, f"{bucket}/"], env=env, check=True)
    names = {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}
    pointer = "checkpoints/latest"
    assert names == {
        pointer,
        "config.json",
        *(f"checkpoints/step_000010/{one}" for one in ("manifest.json", "student/weights.pt")),
    }
    assert log.read_text().splitlines() == [
        str(bucket / "checkpoints" / "step_000010"),
        str(bucket / "checkpoints"),
        str(bucket),
    ]
    subprocess.run([DEPLOY / "bucket.sh", "pull", tmp_path / "fresh", bucket], env=env, check=True)
    assert (tmp_path / "fresh" / pointer).read_text() == "step_000010"
    assert subprocess.run([DEPLOY / "bucket.sh", "move", run, bucket], env=env, check=False).returncode == 2
