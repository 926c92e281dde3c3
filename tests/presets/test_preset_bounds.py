"""Presets of any size, depth and content are read in bounded memory, or refused."""

import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presets import FolderStore, Preset, PresetError, PresetStem, find_preset, format_preset
from presets.preset import parse_preset

DEEP = {
    "lists": "x = " + "[" * 100_000 + "]" * 100_000,
    "inline tables": "x = " + "{a = " * 20_000 + "1" + "}" * 20_000,
    "dotted keys": "a" + ".a" * 50_000 + " = 1",
    "quoted keys": '"a"' + '."a"' * 25_000 + " = 1",
    "spaced keys": "a" + " . a" * 25_000 + " = 1",
    "names of tables": "[a" + ".a" * 50_000 + "]",
    "names of lists": "[[a" + ".a" * 50_000 + "]]",
    "inline dotted keys": "x = {" + "a." * 50_000 + "a = 1}",
    "lists over lines": "x = [\n" * 50_000 + "]" * 50_000,
    "texts that do not end": 'x = "' + '\\"' * 500_000,
    "long texts that do not end": "x = " + '"' * 3 + "\\" * 500_000 + "'" * 500_001,
    "huge number": "seed = 1" + "0" * 5000,
    "huge float": "wet = 1e" + "9" * 5000,
    "huge date": "seed = 99999-99-99",
    "many prompts": '[[prompts]]\ntext = "drums"\n' * 20_000,
}

# The system ends what takes more. What was resident is not asked for: what Linux says of a process
# holds for what it was before `exec` too, a copy of the one that runs the tests.
READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from presets import PresetError, find_preset
try:
    find_preset(sys.argv[1])
except PresetError as error:
    print(error)
"""


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_what_nests_without_end_is_refused_in_bounded_time_and_memory(tmp_path, text):
    path = tmp_path / "deep.toml"
    path.write_text(f"format = 1\n{text}\n")
    done = subprocess.run(
        [sys.executable, "-c", READ, path], check=True, capture_output=True, text=True
    )
    assert "deep.toml: " in done.stdout
    assert len(done.stdout) < 1000


def test_texts_may_hold_what_would_nest():
    text = "[" * 1000 + "{" * 1000 + "a." * 1000 + "#\"'"
    preset = Preset(description=text, stems=(PresetStem(text),))
    assert parse_preset(format_preset(preset)) == preset


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder"])
def test_files_without_end_are_not_read(tmp_path, kind):
    path = tmp_path / "a.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(50 << 30)
    for read in (lambda: find_preset(str(path)), lambda: FolderStore(tmp_path, "user").load("a")):
        with pytest.raises(PresetError, match=r"a\.toml: cannot be read"):
            read()


TOML = st.lists(
    st.sampled_from([
        "format = 1\n", "seed", " = ", "[[prompts]]\n", "text = ", '"drums"', "'", '"""', "[", "]",
        "{", "}", ",", ".", "\n", "nan", "inf", "-1e400", "0x", "1979-05-27", "true", "#", "\\u",
        "gain_db", "[residual]\n", "after = [{ plugin = 'Gain' }]\n", "9" * 30, "\x00", "ö",
    ]),
    max_size=30,
).map("".join)  # fmt: skip


@given(st.one_of(TOML, TOML.map(lambda text: f"format = 1\n{text}"), st.text(max_size=100)))
@settings(max_examples=500)
def test_any_text_is_a_preset_or_an_error(text):
    try:
        preset = parse_preset(text, source="a.toml")
    except PresetError as error:
        assert str(error).startswith("a.toml: ")  # noqa: PT017 -- either is right
    else:
        assert parse_preset(format_preset(preset)) == preset


@given(st.binary(max_size=200))
def test_any_bytes_are_a_preset_or_an_error(tmp_path, content):
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(PresetError, match=r"a\.toml"):
        find_preset(str(path))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e30", "-121.0"])
@pytest.mark.parametrize("place", ["[[prompts]]\ntext = 'a'\n", "[residual]\n"])
def test_gains_that_are_none_are_refused(place, value):
    with pytest.raises(PresetError, match=r"gain_db is .* expected -120 to 120"):
        parse_preset(f"format = 1\n{place}gain_db = {value}")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_parameters_that_are_none_are_refused(value):
    text = f"format = 1\nafter = [{{ plugin = 'Gain', parameters = {{ gain_db = {value} }} }}]"
    with pytest.raises(PresetError, match="'gain_db' of 'Gain' is"):
        parse_preset(text)
