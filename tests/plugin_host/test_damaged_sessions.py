"""Sessions that are damaged, or made to do harm, are sessions or an error that names the file."""

import os
import re
import tracemalloc
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_session_safety import TRACKS, make

from bridge.request import Prompt, Settings
from plugin_host.daw import apply as applying
from plugin_host.daw import dawproject, open_session
from plugin_host.daw.dawproject import Archive
from plugin_host.daw.project_presets import project_presets
from plugin_host.daw.session import SessionError
from presets import PresetError

KINDS = ["rpp", "ardour", "dawproject"]
#: What stands in files where a number, a name or a reference should.
JUNK = [
    "", "nan", "inf", "-inf", "1e400", "-1", "0", "abc", "9" * 400, "1" * 5000, "é", "\x00",
    "\x1b]0;x\x07",
    "<", ">", "&", "&amp;", '"', "'", "\n", "..", "../../../etc/passwd", "/dev/zero",
    "²", "a999@b5",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "remove", "repeat", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(JUNK),
    ),
    min_size=1,
    max_size=4,
)


def text_of(path):
    if path.suffix == ".dawproject":
        with zipfile.ZipFile(path) as found:
            return found.read("project.xml").decode()
    return path.read_text()


def put(path, text):
    """Write a session's text in place of that which it has."""
    if path.suffix != ".dawproject":
        path.write_text(text, "utf-8", newline="")
        return
    with zipfile.ZipFile(path) as found:
        others = {name: found.read(name) for name in found.namelist() if name != "project.xml"}
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("project.xml", text)
        for name, content in others.items():
            new.writestr(name, content)


def edited(text, edits):
    for what, where, junk in edits:
        # Words and what stands between them: the places where programs differ and disks fail.
        parts = re.findall(r"[\w.@-]+|[^\w.@-]", text)
        place = int(where * len(parts))
        if what == "cut":
            del parts[place:]
        else:
            given_ = parts[place : place + 1]
            parts[place : place + 1] = {"replace": [junk], "remove": [], "repeat": given_ * 3}[what]
        text = "".join(parts)
    return text


def use(path):
    """Do all with a session that a command would, without separating; return what is said."""
    told = []

    def ask(question):
        try:
            return question()
        except (SessionError, PresetError) as error:
            told.append(str(error))

    session = ask(lambda: open_session(path))
    if session is None:
        return told
    ask(session.tracks)
    ask(session.marks)
    ask(session.media_folder)
    for track in (TRACKS[path.suffix[1:]], "1"):
        request = applying.Request(track, (Prompt("half"),), Settings())
        ask(lambda request=request: applying.choose_clips(session, request))
        ask(lambda track=track: session.remarks(track))
    ask(lambda: project_presets(path).names())
    return told


@pytest.fixture(params=KINDS)
def session(request, tmp_path):
    """A session and its content, to begin with again."""
    path = make(tmp_path, request.param)
    return path, path.read_bytes()


few = settings(max_examples=30)


@few
@given(edits=EDITS)
def test_a_damaged_session_is_one_or_an_error(session, edits):
    path, content = session
    path.write_bytes(content)
    put(path, edited(text_of(path), edits))
    for message in use(path):
        assert message
        assert "\n" not in message.strip()


@few
@given(data=st.binary(max_size=200), keep=st.floats(0, 1))
def test_any_bytes_are_a_session_or_an_error(session, data, keep):
    path, content = session
    path.write_bytes(content[: int(keep * len(content))] + data)
    use(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_that_nests_without_end_is_an_error(tmp_path, kind):
    path = make(tmp_path, kind)
    opening, closing = ("<A\n", ">\n") if kind == "rpp" else ("<A>", "</A>")
    text = text_of(path)
    place = text.index("<ITEM" if kind == "rpp" else "</")
    put(path, text[:place] + opening * 50_000 + closing * 50_000 + text[place:])
    use(path)


@pytest.mark.parametrize("kind", KINDS)
def test_entities_and_bombs_of_xml_are_refused(tmp_path, kind):
    if kind == "rpp":
        pytest.skip("is no XML")
    path = make(tmp_path, kind)
    entities = "".join(
        f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 10}">' for n in range(9)
    )
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    for inside, used in (
        (entities, "&e8;"),
        (f'<!ENTITY f SYSTEM "file://{secret}">', "&f;"),
    ):
        put(path, f"<!DOCTYPE x [{inside}]><Session>{used}</Session>")
        told = use(path)
        assert told
        assert not any("hunter2" in message for message in told)


# Archives


def bomb(path, name, megabytes):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as found, found.open(name, "w") as entry:
        for _ in range(megabytes):
            entry.write(bytes(1 << 20))
    return path


def test_entries_that_nobody_asks_for_are_never_unpacked(tmp_path, monkeypatch):
    path = bomb(make(tmp_path, "dawproject"), "audio/other.wav", 200)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    tracemalloc.start()
    assert use(path) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    unpacked = [f.stat().st_size for f in (tmp_path / "tmp").rglob("*") if f.is_file()]
    assert sum(unpacked) < 64 << 20


@pytest.mark.slow
def test_what_unpacks_to_more_than_audio_does_is_refused(tmp_path):
    path = bomb(tmp_path / "a.dawproject", "audio/take.wav", 300)
    (tmp_path / "out").mkdir()
    with pytest.raises(SessionError, match="made to fill the disk"):
        Archive(path).unpack("audio/take.wav", tmp_path / "out")
    assert [f for f in (tmp_path / "out").rglob("*") if f.is_file()] == []
    with pytest.raises(SessionError, match="larger than"):
        Archive(path).read("audio/take.wav", 1 << 20)


def test_sizes_that_an_archive_tells_are_not_believed(tmp_path):
    path = bomb(tmp_path / "a.dawproject", "project.xml", 8)
    data = bytearray(path.read_bytes())
    # The uncompressed size in the directory, made small.
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SessionError):
        Archive(path).read("project.xml", 1 << 20)


def test_more_entries_than_a_project_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dawproject, "_MOST_ENTRIES", 20)
    path = tmp_path / "a.dawproject"
    with zipfile.ZipFile(path, "w") as found:
        for number in range(21):
            found.writestr(f"{number}.txt", "")
    with pytest.raises(SessionError, match="more than 20 entries"):
        Archive(path)


@given(st.text(st.characters(codec=None), min_size=1, max_size=12) | st.sampled_from(
    ["../x", "/etc/x", "a/../../x", "C:\\x", "a\\..\\x", "x/", "./x", "a//x", "..", "\x00"]
))  # fmt: skip
@few
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("unpacked")
    path = folder / "a.dawproject"
    inside = folder / "inside"
    inside.mkdir()
    with zipfile.ZipFile(path, "w") as found:
        try:
            found.writestr(zipfile.ZipInfo(name), "content")
        except (ValueError, UnicodeError):
            return  # a name that no archive can have
    before = {f for f in folder.rglob("*") if inside not in f.parents}
    for known in Archive(path).names():
        try:
            place = Archive(path).unpack(known, inside)
        except SessionError:
            continue
        assert os.path.realpath(place).startswith(f"{os.path.realpath(inside)}{os.sep}")
    assert {f for f in folder.rglob("*") if inside not in f.parents} == before


# What a session names


@pytest.mark.parametrize("kind", ["rpp", "ardour"])
@pytest.mark.parametrize("what", ["pipe", "device", "folder", "missing", "loop"])
def test_media_that_is_no_file_is_refused_with_its_name(tmp_path, kind, what):
    path = make(tmp_path, kind)
    media = next(tmp_path.rglob("take 1.wav"))
    media.unlink()
    if what == "pipe":
        os.mkfifo(media)
    elif what == "folder":
        media.mkdir()
    elif what != "missing":
        media.symlink_to("/dev/zero" if what == "device" else media.name)
    request = applying.Request(TRACKS[kind], (Prompt("half"),), Settings())
    with pytest.raises(SessionError, match=r"take 1\.wav"):
        applying.choose_clips(open_session(path), request)
