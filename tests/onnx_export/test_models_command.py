"""``stembridge models`` as a user runs it."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin_host.cli import main

ROOT = Path(__file__).parents[2]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with the hub's settings that it reads at start."""
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, "models", *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip


@pytest.fixture
def gated_hub() -> Iterator[str]:
    """A hub that gives nothing to anyone, as the real one does without a token."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this repository is restricted.")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = refuse

        def log_message(self, *_arguments: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user sees."""
    assert done.returncode == 2, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_gated_repository_says_how_to_get_access(gated_hub: str, tmp_path: Path) -> None:
    done = run(
        "export", "facebook/sam-audio-base", tmp_path / "out",
        HF_ENDPOINT=gated_hub, HF_HOME=str(tmp_path / "hf"), HF_TOKEN="",
    )  # fmt: skip
    line = only_line(done)
    assert "facebook/sam-audio-base" in line
    assert "hf auth login" in line
    assert not (tmp_path / "out").exists()


COMMIT = "5e" * 20


@pytest.fixture
def open_hub() -> Iterator[tuple[str, list[str]]]:
    """A hub with one repository, whose tag v1 is `COMMIT`, and the paths that it was asked for."""
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "other.safetensors": b"not wanted",
        "LICENSE": b"SAM License",
    }
    asked: list[str] = []

    class Serve(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            info, resolve = "/api/models/org/sam/revision/", f"/org/sam/resolve/{COMMIT}/"
            if self.path.partition("?")[0] in (f"{info}v1", f"{info}{COMMIT}"):
                siblings = [{"rfilename": name} for name in files]
                card = {"license": "other", "license_name": "sam-license"}
                body = json.dumps(
                    {"id": "org/sam", "sha": COMMIT, "siblings": siblings, "cardData": card}
                ).encode()
            elif self.path.startswith(f"/api/models/org/sam/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for n, b in files.items()
                ]
                body = json.dumps(tree).encode()
            elif self.path.removeprefix(resolve) in files:
                body = files[self.path.removeprefix(resolve)]
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = answer

        def log_message(self, *_arguments: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_tag_is_pinned_to_its_commit_and_only_what_is_needed_comes(
    open_hub: tuple[str, list[str]], tmp_path: Path
) -> None:
    program = """
import os, sys
from bridge.errors import ModelError
from onnx_export.checkpoints.official import CHECKPOINT_FILES, locate
for revision in sys.argv[1:]:
    try:
        found = locate("org/sam", CHECKPOINT_FILES, "a checkpoint", revision)
        print(found.label, found.licence, *sorted(os.listdir(found.directory)))
    except ModelError as error:
        print(error)
"""
    address, asked = open_hub
    where = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}

    def locate(*revisions: str, **more: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *revisions],
            capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | where | more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    got = "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors"
    files = f"LICENSE {got} model.safetensors.index.json"
    found, unknown = locate("v1", "v9")
    assert found == f"org/sam@{COMMIT} sam-license {files}"
    assert "has no revision 'v9'" in unknown
    assert not any("other.safetensors" in path for path in asked)
    # What was fetched is found again without the hub, at its commit.
    assert locate(COMMIT, HF_HUB_OFFLINE="1") == [f"org/sam@{COMMIT} None {files}"]


@pytest.mark.slow
def test_no_network_is_told(tmp_path: Path) -> None:
    done = run(
        "fetch", "facebook/sam-audio-base",
        HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hf"),
        XDG_DATA_HOME=str(tmp_path / "data"),
    )  # fmt: skip
    assert "the hub can't be reached" in only_line(done)
    assert not (tmp_path / "data").exists()


def test_neither_directory_nor_repository(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "export", "/no/such/place", str(tmp_path / "out")]) == 2
    assert "/no/such/place: no such directory" in capsys.readouterr().err


def test_a_checkpoint_without_its_text_encoder(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["models", "export", str(small_checkpoint), str(tmp_path / "out")]
    assert main([*arguments, "--text-encoder", str(tmp_path)]) == 2
    assert "the text encoder needs the files config.json" in capsys.readouterr().err


def test_a_text_encoder_of_another_width(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from tests.support import parity

    other = parity.write_text_encoder(tmp_path / "t5", dim=32)
    capsys.readouterr()
    arguments = ["models", "export", str(small_checkpoint), str(tmp_path / "out")]
    assert main([*arguments, "--text-encoder", str(other)]) == 2
    assert "width 32, but the checkpoint expects 768" in capsys.readouterr().err


@pytest.mark.slow
def test_installed_bundles_are_listed_shown_and_verified(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    models = tmp_path / "stembridge" / "models"
    models.mkdir(parents=True)
    (models / "sam-small").symlink_to(small_bundle)
    assert main(["models", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["sam-small"]["size_bytes"] > 1_000_000
    assert main(["models", "list"]) == 0
    assert "SAM License" in capsys.readouterr().out
    assert main(["models", "show", "--json", "sam-small"]) == 0
    assert json.loads(capsys.readouterr().out)["sample_rate"] == 48000
    assert main(["models", "show", "--no-measure", "sam-small"]) == 0
    assert "parts:     predicts spans\n" in capsys.readouterr().out
    assert main(["models", "verify", "sam-small", "--files-only"]) == 0
    assert "files have their checksums" in capsys.readouterr().out
    assert main(["models", "verify", "sam-small"]) == 0
    out = capsys.readouterr().out
    assert "within tolerance" in out
    roles = json.loads((small_bundle / "manifest.json").read_text())["graphs"]
    assert out.count("1e-04") == len(roles)
    assert main(["models", "verify", "no-such-model"]) == 2
