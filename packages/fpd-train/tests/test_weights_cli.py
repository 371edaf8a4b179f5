"""`fpd-train doctor` and `fpd-train weights pull`, against a hub of our own on localhost."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fpd_core.checkpoints import CheckpointError
from fpd_core.weights import WEIGHT_FILES
from fpd_train.cli import app
from fpd_train.weights_cli import fetch

COMMAND = Path(sys.executable).with_name("fpd-train")
CONTENT = bytes(range(256)) * 2**16  # 16 MiB; huggingface_hub writes 10 MB at a time
MASKGIT = {file.role: file for file in WEIGHT_FILES["maskgit"]}


class Hub(BaseHTTPRequestHandler):
    """Serves every file of every repository with the same content, as huggingface.co does for plain files."""

    requests: list  # (method, path, Range header)
    status = 200
    error_code = ""
    fails_once_after: int | None = None

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        kind = type(self)
        kind.requests.append((self.command, self.path, self.headers.get("Range")))
        if kind.status != 200:
            self.send_response(kind.status)
            self.send_header("X-Error-Code", kind.error_code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if self.command == "GET":
            end = len(CONTENT)
            if kind.fails_once_after is not None and "/resolve/" in self.path:
                end, kind.fails_once_after = kind.fails_once_after, None
            self.wfile.write(CONTENT[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    handler = type("OneHub", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    server.server_close()


def call(*arguments, cwd, endpoint="http://127.0.0.1:1"):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cwd / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [str(COMMAND), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment
    )


def test_pull_puts_every_file_of_a_family_in_its_place_and_keeps_what_is_there(hub, tmp_path):
    result = call("weights", "pull", "maskgen", cwd=tmp_path, endpoint=hub.url)
    assert result.returncode == 0, result.stderr
    for file in WEIGHT_FILES["maskgen"]:
        assert (tmp_path / file.local).read_bytes() == CONTENT
        assert ("GET", f"/{file.repo_id}/resolve/main/{file.filename}", None) in hub.requests
        assert file.licence in result.stderr
    held = sorted(path.name for path in (tmp_path / "weights/maskgen").iterdir() if path.name != ".download")
    assert held == sorted(file.local.name for file in WEIGHT_FILES["maskgen"])
    hub.requests.clear()
    assert call("weights", "pull", "maskgen", cwd=tmp_path, endpoint=hub.url).returncode == 0
    assert hub.requests == []


def test_pull_takes_the_files_of_other_sizes_by_role(hub, tmp_path):
    result = call("weights", "pull", "halton", "small_384", "tokenizer", cwd=tmp_path, endpoint=hub.url)
    assert result.returncode == 0, result.stderr
    held = sorted(path.name for path in (tmp_path / "weights/halton").iterdir() if path.name != ".download")
    assert held == ["ImageNet_384_small.pth", "vq_ds16_c2i.pt"]
    result = call("weights", "pull", "halton", "small_348", cwd=tmp_path, endpoint=hub.url)
    assert result.returncode == 2
    assert "did you mean 'small_384'" in result.stderr


def test_a_broken_download_continues_where_it_stopped(hub, tmp_path):
    hub.fails_once_after = 15_000_000
    result = call("weights", "pull", "dinov3", cwd=tmp_path, endpoint=hub.url)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / WEIGHT_FILES["dinov3"][0].local).read_bytes() == CONTENT
    ranges = [int(wanted.removeprefix("bytes=").split("-")[0]) for method, _, wanted in hub.requests if wanted]
    assert any(0 < start <= 15_000_000 for start in ranges)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "licence has to be accepted: open https://huggingface.co/timm/"),
        (404, "RepoNotFound", "not public or no longer there"),
        (404, "EntryNotFound", "no longer holds this file"),
    ],
)
def test_refusals_of_the_hub_are_explained(hub, tmp_path, status, code, message):
    hub.status, hub.error_code = status, code
    result = call("weights", "pull", "dinov3", cwd=tmp_path, endpoint=hub.url)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / WEIGHT_FILES["dinov3"][0].local).exists()


def test_without_a_network_one_sentence_says_what_to_do(tmp_path):
    result = call("weights", "pull", "dinov3", cwd=tmp_path)
    assert result.returncode == 2
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: cannot download model.safetensors of huggingface.co/timm/vit_base_patch16_dinov3")
    assert "put it at weights/dinov3/vit_base_patch16_dinov3.safetensors" in error
    assert "Traceback" not in result.stderr


def test_an_unknown_family_is_answered_with_the_nearest(tmp_path):
    result = call("weights", "pull", "maskgid", cwd=tmp_path)
    assert result.returncode == 2
    assert "did you mean 'maskgit'" in result.stderr


# --- doctor ---


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


@pytest.fixture
def maskgit_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {
        "output": "runs/x",
        "steps": 1,
        "device": "cpu",
        "method": {"name": "fpd", "teacher": {"name": "maskgit"}, "lift": {"backbone": {"name": "dinov3"}}},
        "data": {"name": "uniform_labels", "num_classes": 1000},
    }
    (tmp_path / "maskgit.json").write_text(json.dumps(tree))
    return ["--config", "maskgit.json"]


def test_doctor_lists_every_file_and_fails_while_one_is_missing(tmp_path, maskgit_run):
    files = [*WEIGHT_FILES["maskgit"], *WEIGHT_FILES["dinov3"]]
    present = tmp_path / files[1].local
    present.parent.mkdir(parents=True)
    present.write_bytes(b"x" * 20_000_000)
    result = doctor(*maskgit_run)
    assert result.exit_code == 1
    for file in files:
        row = next(line for line in result.stdout.splitlines() if str(file.local) in line)
        assert ("present" if file is files[1] else "missing") in row
        assert file.repo_id in row
    assert "0.02 GB" in result.stdout
    assert "at least 0.70 GB" in result.stdout  # 174,160,874 float32 numbers
    assert "2 of 3 missing. Run `fpd-train weights pull maskgit` and `fpd-train weights pull dinov3`" in result.stdout


def test_doctor_names_the_files_of_the_size_asked_for(tmp_path, maskgit_run):
    size = ["method.teacher.name=halton", "method.teacher.size=large", "method.teacher.image_size=384"]
    result = doctor(*maskgit_run, *(word for one in size for word in ("--set", one)))
    assert result.exit_code == 1
    assert "weights/halton/ImageNet_384_large.pth" in result.stdout
    assert (
        "Run `fpd-train weights pull halton large_384 tokenizer` and `fpd-train weights pull dinov3`" in result.stdout
    )


def test_doctor_answers_in_json_too(tmp_path, maskgit_run):
    place = {"transformer": "elsewhere/vit.pth", "tokenizer": "elsewhere/vq.ckpt"}
    moved = [f"--set=method.teacher.{role}={path}" for role, path in place.items()]
    result = doctor(*maskgit_run, "--json", *moved)
    assert result.exit_code == 1
    records = {(record["family"], record["role"]): record for record in json.loads(result.stdout)}
    assert list(records) == [("maskgit", "transformer"), ("maskgit", "tokenizer"), ("dinov3", "backbone")]
    for role, path in place.items():
        record = records["maskgit", role]
        assert record["path"] == path
        assert record["present"] is False
        assert record["filename"] == MASKGIT[role].filename


def test_doctor_is_content_when_everything_is_there(tmp_path, maskgit_run):
    for file in (*WEIGHT_FILES["maskgit"], *WEIGHT_FILES["dinov3"]):
        (tmp_path / file.local).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.local).write_bytes(b"x")
    result = doctor(*maskgit_run)
    assert result.exit_code == 0
    assert "All 3 files are there" in result.stdout


def test_doctor_knows_runs_that_need_nothing(tmp_path, config):
    (tmp_path / "run.json").write_text(json.dumps(config))
    result = doctor("--config", str(tmp_path / "run.json"))
    assert result.exit_code == 0
    assert "needs no published weight files" in result.stdout
    result = doctor("--config", str(tmp_path / "run.json"), "--json")
    assert json.loads(result.stdout) == []


def test_help_needs_no_torch():
    code = (
        "import sys; from fpd_train import weights_cli; print('torch' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["False", "False"]


def test_a_file_outside_the_hub_is_checked_by_the_digest_in_its_name(tmp_path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    (tmp_path / "there").write_bytes(content)
    published = WEIGHT_FILES["mask2former"][0]
    assert published.url == published.address
    for name, damaged in ((f"good-{digest}.pth", False), ("bad-00000000.pth", True)):
        file = replace(published, local=tmp_path / "new" / name, address=(tmp_path / "there").as_uri())
        if damaged:
            with pytest.raises(CheckpointError, match=f"was damaged on its way: its SHA-256 starts with {digest}"):
                fetch(file)
        else:
            fetch(file)
            assert file.local.read_bytes() == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"good-{digest}.pth"]
    with pytest.raises(CheckpointError, match=r"cannot download file:.*put it at"):
        fetch(replace(file, address=(tmp_path / "nowhere").as_uri()))
