"""Weights on the Hugging Face Hub, against a small server that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard

from asyncdsb import AsyncDSBPipeline
from asyncdsb.store.card import CARD, model_card
from asyncdsb.store.hub import FILES

pytestmark = pytest.mark.slow


class FakeHub(BaseHTTPRequestHandler):
    """One model repository, me/net, in memory: commits by their hash; "main" is the last one."""

    commits: dict[str, dict[str, bytes]]
    made: list[dict]

    def answer(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = f"http://{self.headers['Host']}/me/net"
        if self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("authorization") != "Bearer writer":
            self.answer(401)
        elif self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self.answer(200, {"url": place})
        elif self.path == "/api/models/me/net/preupload/main":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer(200, {"files": [f | modes for f in json.loads(body)["files"]]})
        elif self.path == "/api/models/me/net/commit/main":
            header, *operations = (json.loads(line) for line in body.splitlines())
            self.made.append(header["value"])
            commit = hashlib.sha1(body).hexdigest()
            files = [operation["value"] for operation in operations]
            self.commits[commit] = {f["path"]: base64.b64decode(f["content"]) for f in files}
            url = f"{place}/commit/{commit}"
            self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self.answer(404)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "me", "gated"]:
            return self.answer(403, X_Error_Code="GatedRepo")
        name, rest = (parts[3], parts[4:]) if parts[0] == "api" else (parts[1], parts[2:])
        if name not in ("net", "broken"):
            return self.answer(404, X_Error_Code="RepoNotFound")
        revision = list(self.commits)[-1] if rest[1:] in ([], ["main"]) else rest[1]
        files = dict(self.commits.get(revision, {}))
        if name == "broken":
            files.pop("gradient.safetensors")
        if revision not in self.commits:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        hashes = {path: hashlib.sha1(blob).hexdigest() for path, blob in files.items()}
        if parts[0] != "api":
            tag = f'"{hashes[rest[2]]}"'
            return self.answer(200, files[rest[2]], ETag=tag, X_Repo_Commit=revision)
        if rest[:1] == ["tree"]:
            found = [
                {"path": path, "size": len(blob), "type": "file", "oid": hashes[path]}
                for path, blob in files.items()
            ]
            return self.answer(200, found)
        siblings = [{"rfilename": path} for path in files]
        return self.answer(200, {"id": f"me/{name}", "sha": revision, "siblings": siblings})

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub():
    """A fake hub with two commits of a tiny pipeline, and the environment that leads to it."""
    handler = type("Hub", (FakeHub,), {"commits": {}, "made": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()


def run(hub, folder, code: str, *arguments: object, **variables: str) -> str:
    """Output of a program with the Hub at the server's address, which its client reads once."""
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(folder), "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_TOKEN": "writer", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"} | variables
    setup = "import json, sys\nfrom asyncdsb import AsyncDSBPipeline as Pipe\n"
    command = [sys.executable, "-c", setup + code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | own
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PUSH = """
print(Pipe.random(1).push_to_hub("me/net", private=True, commit_message="First"))
print(Pipe.random(2).push_to_hub("me/net"))
"""

LOAD = """
folder, *revisions = sys.argv[1:]
for revision in revisions:
    Pipe.from_pretrained("me/net", revision=revision).save_pretrained(f"{folder}/{revision}")
found = {}
for name, call in {
    "repository": lambda: Pipe.from_pretrained("me/nothing"),
    "revision": lambda: Pipe.from_pretrained("me/net", revision="v9"),
    "gated": lambda: Pipe.from_pretrained("me/gated"),
    "file": lambda: Pipe.from_pretrained("me/broken"),
    "name": lambda: Pipe.from_pretrained("no/such/folder"),
    "push": lambda: Pipe.random().push_to_hub("me/net"),
}.items():
    try:
        call()
    except ValueError as error:
        found[name] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory) -> list[str]:
    """Addresses of the two commits, which are on the hub now."""
    return run(hub, tmp_path_factory.mktemp("writer"), PUSH).split()


def test_round_trip_and_refusals(hub, pushed, tmp_path):
    """One test for all, as a process that has torch and the Hub's client takes seconds."""
    handler = hub.RequestHandlerClass
    old, new = handler.commits
    assert pushed == [f"{hub.address}/me/net/commit/{commit}" for commit in (old, new)]
    assert set(handler.commits[old]) == {CARD, *FILES}
    asked, commit, *_ = handler.made
    assert asked["name"] == "net" and asked.get("private", asked.get("visibility")) in (
        True,
        "private",
    )
    assert commit["summary"] == "First"

    arguments = LOAD, tmp_path, "main", old
    found = run(hub, tmp_path / "reader", *arguments, HF_TOKEN="reader")
    for revision, seed in (("main", 2), (old, 1)):
        AsyncDSBPipeline.random(seed).save_pretrained(tmp_path / "sent")
        for name in (CARD, *FILES):
            sent = (tmp_path / "sent" / name).read_bytes()
            assert (tmp_path / revision / name).read_bytes() == sent

    told = json.loads(found)
    assert not [line for line in told.values() if "\n" in line]
    assert "no such repository" in told["repository"] and "hf auth login" in told["repository"]
    assert "no revision 'v9'" in told["revision"]
    assert f"ask for access at {hub.address}/me/gated" in told["gated"]
    assert "has no gradient.safetensors at revision main" in told["file"]
    assert "expected user/repo" in told["name"] and "no folder 'no/such/folder'" in told["name"]
    assert told["push"].startswith("cannot upload to 'me/net'") and "hf auth login" in told["push"]

    told = json.loads(run(hub, tmp_path / "reader", *arguments, HF_HUB_OFFLINE="1"))
    assert all("HF_HUB_OFFLINE" in told[name] for name in ("repository", "revision", "push"))


def test_the_card_has_what_the_hub_reads_and_is_kept(tmp_path, tiny_weights):
    card = ModelCard.load(tiny_weights / CARD)
    assert card.data.license is None and card.data.pipeline_tag == "image-to-image"
    assert card.data.library_name == "asyncdsb" and "image-inpainting" in card.data.tags
    assert "from_pretrained" in card.text and "## Training" not in card.text
    pipe = AsyncDSBPipeline.from_pretrained(tiny_weights)
    text = "---\nlicense: mit\n---\n\n# Mine\n\nThe worst:\n![worst](worst.webp)\n\nThe end.\n"
    pipe.save_pretrained(tmp_path)
    (tmp_path / CARD).write_text(text)
    AsyncDSBPipeline.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    # Pictures do not travel, nor what is said about them.
    kept = text.replace("The worst:\n![worst](worst.webp)\n\n", "")
    assert (tmp_path / "again" / CARD).read_text() == kept
    assert {path.name for path in (tmp_path / "again").iterdir()} == {CARD, *FILES}
    # Beside its pictures a card stays whole.
    AsyncDSBPipeline.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / CARD).read_text() == text


def test_a_card_names_a_licence_that_is_known(tiny_pipe):
    (line,) = (
        x for x in model_card(tiny_pipe.facts, "mit").splitlines() if x.startswith("license")
    )
    assert line == "license: mit"


@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ("http://me:secret@127.0.0.1:9", "cannot be reached through the proxy 127.0.0.1:9"),
        ("socks://127.0.0.1:9", "the proxy of this machine cannot be used"),
        ("http://127.0.0.1:port", "the proxy of this machine cannot be used: Invalid port"),
    ],
)
def test_a_proxy_that_fails_is_named_in_one_line(hub, tmp_path, proxy, told):
    code = """
try:
    Pipe.from_pretrained("me/weights")
except ValueError as error:
    print(error)
"""
    variables = {"NO_PROXY": "", "no_proxy": "", "HTTP_PROXY": proxy, "http_proxy": proxy}
    said = run(hub, tmp_path, code, **variables)
    assert told in said and said.count("\n") == 1 and "secret" not in said


@pytest.fixture(scope="module")
def reader(hub, pushed, tmp_path_factory):
    """A cache that has the weights."""
    folder = tmp_path_factory.mktemp("reader")
    run(hub, folder, "Pipe.from_pretrained('me/net')", HF_TOKEN="reader")
    return folder


@pytest.mark.parametrize("proxy", [False, True])
def test_a_server_that_never_answers_is_given_up(hub, reader, proxy):
    """It accepts the connection; weights that were fetched before are loaded from the cache."""
    code = """
for name in ("me/net", "me/other"):
    try:
        print(Pipe.from_pretrained(name).config.finish)
    except ValueError as error:
        print(error)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        variables = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_ENDPOINT": f"http://{address}"}
        way = ""
        if proxy:
            way = f" through the proxy http://{address}"
            variables |= {"HTTP_PROXY": f"http://{address}", "http_proxy": f"http://{address}"}
            variables |= {"NO_PROXY": "", "no_proxy": "", "HF_ENDPOINT": "http://hub.invalid"}
        cached, told = run(hub, reader, code, **variables).splitlines()
    assert cached == "none"
    assert f"the Hub at {variables['HF_ENDPOINT']} does not answer within 1 s{way}" in told
