"""What answers in Audacity's place: pipes of others, links to files, answers that are none."""

import os
import threading

import pytest

from plugin_host.daw.audacity import Audacity, AudacitySession
from plugin_host.daw.session import SessionError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Audacity has its pipes on Unix")


def names(folder):
    return [folder / f"audacity_script_pipe.{way}.{os.getuid()}" for way in ("to", "from")]


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("kind", ["link to a file", "file", "link to a pipe", "folder", "stranger"])
def test_what_is_no_pipe_of_the_user_is_neither_read_nor_written(tmp_path, kind, way):
    precious = tmp_path / "precious"
    precious.write_text("years of work")
    pipes = names(tmp_path)
    os.mkfifo(pipes[1 - way])
    # Somebody at the other end, so that opening is not what fails.
    ends = [os.open(pipes[1 - way], os.O_RDWR)]
    if kind == "link to a file":
        pipes[way].symlink_to(precious)
    elif kind == "file":
        pipes[way].write_text("")
    elif kind == "folder":
        pipes[way].mkdir()
    else:
        real = tmp_path / "real" if kind == "link to a pipe" else pipes[way]
        os.mkfifo(real)
        ends.append(os.open(real, os.O_RDWR))
        if real != pipes[way]:
            pipes[way].symlink_to(real)
        elif os.getuid() == 0:
            os.chown(real, 12345, 12345)
        else:
            pytest.skip("only root can make pipes of another user")
    with pytest.raises(SessionError):
        Audacity(tmp_path)
    for end in ends:
        os.close(end)
    assert precious.read_text() == "years of work"


@pytest.fixture
def answering(tmp_path, monkeypatch):
    """Return what starts an Audacity that gives one answer to everything, and a session with it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    to, back = names(tmp_path)
    os.mkfifo(to)
    os.mkfifo(back)
    threads = []

    def start(answer):
        def serve():
            with open(to, "rb") as commands, open(back, "wb", buffering=0) as answers:
                for _ in commands:
                    if answer is None:
                        return
                    answers.write(answer.encode() + b"\nBatchCommand finished: OK\n\n")

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        # The other end opens when this one does.
        held = os.open(back, os.O_RDONLY | os.O_NONBLOCK)
        connection = Audacity(tmp_path, timeout_s=20.0)
        os.close(held)
        return connection

    yield start
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize(
    "answer",
    ["[" * 100_000, "{}", "[1]", '[{"name": 3}]', '[{"kind": "wave", "channels": "two"}]',
     '[{"start": NaN}]', "null", "\x00", '[[0, [["a", 1, "x"]]]]', '[[0, [[1]]]]', "9" * 5000],
)  # fmt: skip
def test_an_answer_that_is_none_is_told(answering, answer):
    with answering(answer) as audacity:
        session = AudacitySession(audacity)
        for ask in (session.tracks, session.marks, lambda: session.clips("1")):
            with pytest.raises(SessionError, match=r"Audacity|no track"):
                ask()


def test_an_audacity_that_ends_is_told(answering):
    with answering(None) as audacity:
        audacity._timeout_s = 1.0
        for _ in range(3):
            with pytest.raises(SessionError, match=r"is gone|does not answer"):
                audacity.do("Select")


def test_a_track_that_is_gone_meanwhile_is_told(answering):
    with answering('[{"name": "a", "kind": "wave"}]') as audacity:
        assert audacity.track(0).name == "a"
        with pytest.raises(SessionError, match="not in Audacity any more"):
            audacity.track(1)
