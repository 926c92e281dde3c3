"""Who may speak to a panel, and what it never gives away."""

import concurrent.futures
import os
import subprocess
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

from tests.support.panels import running_panel

#: What a stranger may learn from an answer: nothing.
SILENT = (403, b"")


@pytest.fixture(scope="module")
def panel(bundle, tmp_path_factory):
    """One panel for all: nothing here is to change it."""
    from tests.support.host_audio import RATE, music

    folder = tmp_path_factory.mktemp("guarded")
    soundfile.write(folder / "song.wav", music().T, RATE, subtype="PCM_16")
    (folder / "secret.wav").write_bytes((folder / "song.wav").read_bytes())
    with running_panel(folder / "song.wav", "--model", bundle, "-p", "half") as running:
        running.folder = folder
        yield running


def told(answer):
    return answer.status, answer.body


@pytest.mark.parametrize("path", ["", "events", "peaks/original/original/0/0", "nothing"])
@pytest.mark.parametrize("token", ["", "x", "wrong-wrong-wrong-wrong-wrong-ww", "%00", "é"])
def test_a_wrong_secret_gets_403_and_nothing_else(panel, token, path):
    assert told(panel.ask("", target=f"/{quote(token, safe='%')}/{path}")) == SILENT
    assert told(panel.ask("", target=f"/{path}")) == SILENT
    assert told(panel.ask("", target=f"/{panel.token}x/{path}")) == SILENT
    assert told(panel.ask("", target=f"/{panel.token[:-1]}/{path}")) == SILENT
    assert told(panel.ask("", target=f"/{quote(token, safe='%')}/edit", body={})) == SILENT


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost", "", "127.0.0.1:{port}.evil"]
)
def test_a_foreign_host_gets_403_and_nothing_else(panel, host):
    for path in ("", "events"):
        answer = panel.ask(path, headers={"Host": host.format(port=panel.port)})
        assert told(answer) == SILENT


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}", "file://"],
)
def test_a_foreign_origin_gets_403_and_nothing_else(panel, origin):
    before = panel.state()
    for path, body in (("", None), ("run", {"whole": True}), ("undo", {})):
        answer = panel.ask(path, body, headers={"Origin": origin.format(port=panel.port)})
        assert told(answer) == SILENT
        assert "access-control-allow-origin" not in answer.headers
    assert panel.state() == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_somebody_else_cannot_even_link_here(panel, site):
    assert told(panel.ask("", headers={"Sec-Fetch-Site": site})) == SILENT


def test_our_own_page_comes_in_by_either_name_of_this_machine(panel):
    for host in ("127.0.0.1", "localhost"):
        place = f"{host}:{panel.port}"
        answer = panel.ask(
            "presets",
            headers={"Host": place, "Origin": f"http://{place}", "Sec-Fetch-Site": "same-origin"},
        )
        assert answer.status == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in answer.headers


def test_only_this_machine_can_reach_the_port(panel):
    import psutil

    listening = [
        connection.laddr.ip
        for connection in psutil.Process(panel.process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def outside(panel):
    """Ways in which other servers were talked into giving files away."""
    other = f"{panel.folder}/secret.wav"
    return [
        other,
        "../secret.wav",
        "../" * 12 + "etc/passwd",
        "..%2f" * 12 + "etc/passwd",
        "%2e%2e/" * 12 + "etc/passwd",
        "..%5c..%5csecret.wav",
        "index.html/../../server.py",
        "server.py",
        "../server.py",
        "main.js%00.py",
        "/etc/passwd",
        "file:///etc/passwd",
    ]


def test_files_that_were_not_opened_are_never_served(panel):
    secret = (panel.folder / "secret.wav").read_bytes()
    for name in outside(panel):
        for before in ("", "file/t1/p1/", "file/original/", "mix/t1/", "audio/", "peaks/"):
            answer = panel.ask("", target=f"/{panel.token}/{before}{name}")
            assert answer.status in (400, 403, 404, 405), (before + name, answer)
            assert secret[:200] not in answer.body
            assert b"root:" not in answer.body
            assert b"import " not in answer.body
        loaded = panel.ask("preset/load", {"name": name})
        assert loaded.status == 400
        assert b"there is no preset" in loaded.body


def test_what_a_page_sends_is_not_taken_for_a_path(panel):
    for name in ("../../up", "/etc/cron.d/x", "a/b", ".hidden", "x\x00y", "CON"):
        answer = panel.ask("preset", {"name": name, "project": True})
        assert answer.status == 400, answer.body
    assert sorted(path.name for path in panel.folder.iterdir()) == ["secret.wav", "song.wav"]


def test_nonsense_is_refused_in_words(panel):
    before = panel.state()
    refused = [
        ("edit", b"\xff\x00"),
        ("edit", {"do": "format-disk"}),
        ("edit", {"do": "set-spans", "id": "p1", "spans": [{"start_s": "x"}]}),
        ("edit", {"do": "set-spans", "id": "p9", "spans": []}),
        ("edit", {"do": "add-prompt", "text": "x" * 201}),
        ("edit", {"do": "remove-prompt", "id": "p1", "and": 1}),
        ("mix", {"key": "p1", "strip": {"gain_db": 1e9}}),
        ("mix", {"key": "p1", "strip": {"pan": "left"}}),
        ("select", {"stretch": [-1, 2]}),
        ("seed", {"seed": -1}),
        ("take", {"id": "t77", "discard": True}),
        ("stems", {}),
        ("loudness", {"start": 0, "stop": 10**12}),
        ("edit", b"[" * 100_000),
        ("marks/p1/x.mid", b"MThd"),
        ("marks/p1/x.txt", b"\x00" * 1000),
    ]
    for path, body in refused:
        answer = panel.ask(path, body)
        assert answer.status == 400, (path, body, answer)
        assert answer.json["error"]
    big = panel.ask("marks/p1/x.txt", b"0\t1\thalf\n" * 600_000)
    assert big.status == 400
    assert b"4 MB" in big.body
    for path in ("audio/original/original?start=0&samples=99999999", "peaks/original/p1/99/0"):
        assert panel.ask(path).status in (400, 404)
    assert panel.state() == before


def test_100_requests_at_once_are_all_answered(panel):
    paths = [
        "",
        "main.js",
        "presets",
        "peaks/original/original/0/0",
        "bands/original/original/0/0",
        "audio/original/original?start=0&samples=44100",
        "audio/original/original?start=22050&samples=44100",
        "bands/original/original/1/0",
        "nothing",
        "loudness",
    ]
    expected = {path: panel.ask(path) for path in paths}
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda index: panel.ask(paths[index % len(paths)]), range(100)))
    for index, answer in enumerate(answers):
        path = paths[index % len(paths)]
        assert (answer.status, answer.body) == (expected[path].status, expected[path].body), path
    # And as many edits lose nothing.
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        edits = [{"do": "add-prompt", "text": f"sound {number}"} for number in range(60)]
        assert {answer.status for answer in pool.map(lambda e: panel.ask("edit", e), edits)} == {
            200
        }
    texts = [row["text"] for row in panel.state()["prompts"]]
    assert sorted(texts[1:]) == sorted(edit["text"] for edit in edits)
    for _ in edits:
        panel.do("undo")
    assert [row["text"] for row in panel.state()["prompts"]] == ["half"]


@pytest.mark.slow
def test_a_song_whose_name_is_no_text_is_shown_and_loaded(bundle, tmp_path):
    song = tmp_path / os.fsdecode(b"K\xfcnstler.wav")
    soundfile.write(os.fsencode(song), np.zeros((800, 1)), 8000)
    with running_panel(song, "--model", bundle, "-p", "half") as running:
        assert running.state()["title"] == "K\\udcfcnstler.wav"
        running.do("run", {"whole": True})
        take = running.finished()
        answer = running.ask(f"file/{take['id']}/p1/x.wav")
        assert answer.status == 200
        assert "nstler half.wav" in answer.headers["content-disposition"]
        files = running.do("stems")["files"]
        assert {Path(file).name for file in files.values()} == {"half.wav", "residual.wav"}
    assert (tmp_path / "stembridge-out" / song.stem / "half.wav").is_file()


@pytest.mark.slow
def test_it_ends_by_itself_when_nobody_looks(bundle, song):
    with running_panel(song, "--model", bundle, "--idle-timeout", "1") as running:
        # Somebody looks: it stays.
        states = running.states()
        next(states)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(timeout=3)
        states.close()
        assert running.process.wait() == 0
