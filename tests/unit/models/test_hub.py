"""Tests of models on the Hugging Face Hub, with a local server that imitates the Hub."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
from huggingface_hub import HfApi, constants
from trained import scores_of, trained_prior, trained_tokenizer

from video_vq.errors import InputError
from video_vq.models import hub
from video_vq.models.prior import Prior
from video_vq.models.tokenizer import VideoTokenizer


class FakeHub(ThreadingHTTPServer):
    """A local server that imitates the Hub, with repositories in memory.

    Attributes:
        repositories: name -> revision -> file -> bytes. A commit is named by a hash of its files.
        asked: method and path of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        commit = hashlib.sha1(b"".join(files.values())).hexdigest()
        self.repositories.setdefault(name, {}).update({revision: files, commit: files})
        return commit


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        assert isinstance(self.server, FakeHub)
        return self.server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        parts = self.path.strip("/").split("/")
        if len(parts) != 5 or parts[2] != "resolve":
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        name, revision, file = "/".join(parts[:2]), parts[3], parts[4]
        if name == "org/gated":
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        if name not in self.hub.repositories:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        revisions = self.hub.repositories[name]
        if revision not in revisions:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        if file not in revisions[revision]:
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        data = revisions[revision][file]
        commit = next(
            key for key in revisions if len(key) == 40 and revisions[key] == revisions[revision]
        )
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return self.answer(200, headers, data)

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if "organization" in asked else ""
            if name == "org/forbidden":
                return self.answer(403, {"X-Error-Message": "You may not write to org"})
            return self.json({"url": f"{self.hub.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        name, action = "/".join(self.path.split("/")[3:5]), self.path.split("/")[5]
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self.json({"files": modes})
        lines = [json.loads(line) for line in body.splitlines()]
        values = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.hub.put(
            name, {value["path"]: base64.b64decode(value["content"]) for value in values}
        )
        address = f"{self.hub.address}/{name}/commit/{commit}"
        return self.json({"commitUrl": address, "commitOid": commit, "hookOutput": ""})

    def json(self, value: object) -> None:
        self.answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def answer(self, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def fake_hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    server = FakeHub()
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_api", lambda: HfApi(server.address, token="hf_" + "x" * 34))
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("make", [trained_tokenizer, trained_prior])
def test_what_is_pushed_comes_back_bit_for_bit_with_a_card(fake_hub, make):
    model = make()
    address = model.push_to_hub("org/model")
    assert address.startswith(f"{fake_hub.address}/org/model/commit/")
    scores = scores_of(model.hash, model.hash)
    model.push_to_hub("org/model", scores=scores, license="cc-by-4.0")
    loaded = type(model).from_pretrained("org/model")
    assert (loaded.hash, loaded.facts) == (model.hash, model.facts)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    card = fake_hub.repositories["org/model"]["main"]["README.md"].decode()
    assert f'{type(model).__name__}.from_pretrained("org/model")' in card
    assert "license: cc-by-4.0" in card
    assert "| FVD floor, real against real | 12.125 | N = 128 |" in card


def test_only_the_two_files_of_one_commit_are_fetched_and_kept(fake_hub):
    model = trained_tokenizer()
    model.push_to_hub("org/model")
    files = fake_hub.repositories["org/model"]["main"]
    commit = fake_hub.put("org/model", {**files, "pytorch_model.bin": b"a pickle", "hook.py": b"1"})
    fake_hub.asked.clear()
    VideoTokenizer.from_pretrained("org/model")
    asked = {line.split("/resolve/")[1] for line in fake_hub.asked}
    assert asked == {"main/config.json", f"{commit}/model.safetensors"}
    assert sum(line.startswith("GET") for line in fake_hub.asked) == 2
    VideoTokenizer.from_pretrained("org/model")
    assert sum(line.startswith("GET") for line in fake_hub.asked) == 2  # kept


def test_a_revision_is_a_branch_a_tag_or_a_commit(fake_hub):
    model = trained_tokenizer()
    model.push_to_hub("org/model")
    old = fake_hub.put("org/model", fake_hub.repositories["org/model"]["main"], "v1")
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1)
    model.push_to_hub("org/model")
    first, new = (VideoTokenizer.from_pretrained("org/model", name) for name in ("v1", "main"))
    assert first.hash != new.hash == model.hash
    assert VideoTokenizer.from_pretrained("org/model", old).hash == first.hash
    with pytest.raises(InputError, match="has no revision 'v2'; its branches, tags and commits"):
        VideoTokenizer.from_pretrained("org/model", "v2")


def test_a_folder_of_that_name_comes_before_the_hub(fake_hub, tmp_path):
    trained_tokenizer().save_pretrained(tmp_path / "org" / "model")
    VideoTokenizer.from_pretrained("org/model")
    assert not fake_hub.asked
    with pytest.raises(InputError, match="no such folder; name a prior's folder"):
        Prior.from_pretrained(tmp_path / "org" / "none")
    assert not fake_hub.asked


def test_what_the_hub_refuses_says_what_to_do(fake_hub):
    with pytest.raises(InputError, match="no such folder here, and no such model on the Hugging"):
        Prior.from_pretrained("org/none")
    with pytest.raises(InputError, match=r"accept its terms on https://huggingface\.co/org/gated"):
        Prior.from_pretrained("org/gated")
    fake_hub.put("org/other", {"weights.bin": b""})
    with pytest.raises(InputError, match="not a model of video-vq"):
        Prior.from_pretrained("org/other")
    trained_tokenizer().push_to_hub("org/model")
    fake_hub.asked.clear()
    with pytest.raises(InputError, match="expected a prior written by video-vq, found kind 'tok"):
        Prior.from_pretrained("org/model")
    assert not any("safetensors" in line for line in fake_hub.asked)
    with pytest.raises(InputError, match=r"You may not write to org(.|\n)*`hf auth login`"):
        trained_prior().push_to_hub("org/forbidden")


def test_without_network_the_message_says_so(fake_hub, monkeypatch):
    fake_hub.shutdown()
    fake_hub.server_close()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match="no such folder here, and the Hugging Face Hub cannot"):
        Prior.from_pretrained("org/model")
    with pytest.raises(InputError, match="refused or broke the connection"):
        trained_prior().push_to_hub("org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="no network, or HF_HUB_OFFLINE is set"):
        Prior.from_pretrained("org/model")


def test_what_was_fetched_once_loads_without_network(fake_hub, monkeypatch):
    model = trained_tokenizer()
    model.push_to_hub("org/model")
    VideoTokenizer.from_pretrained("org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert VideoTokenizer.from_pretrained("org/model").hash == model.hash


def test_a_single_file_is_fetched_by_its_name(fake_hub, monkeypatch):
    fake_hub.put("org/eyes", {"weights.safetensors": b"arrays"})
    assert hub.fetch_file("org/eyes", "weights.safetensors").read_bytes() == b"arrays"
    with pytest.raises(InputError, match=r"org/eyes: holds no other\.pth on the Hugging Face Hub"):
        hub.fetch_file("org/eyes", "other.pth")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.fetch_file("org/eyes", "weights.safetensors").read_bytes() == b"arrays"
    with pytest.raises(InputError, match=r"cannot be reached .* name a local file"):
        hub.fetch_file("org/eyes", "new.safetensors")


def test_a_stranger_loads_it_as_the_card_says(fake_hub, tmp_path):
    model = trained_tokenizer()
    model.push_to_hub("org/model")
    code = (
        "from video_vq import VideoTokenizer\n"
        "tokenizer = VideoTokenizer.from_pretrained('org/model', revision='main')\n"
        "print(tokenizer.hash)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": fake_hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == model.hash
