"""Names from anywhere, printed on any terminal or pipe: as they are, harmless, never a failure."""

import io
import json
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import encodable, printable
from bridge.separation import Progress
from plugin_host.cli import console
from plugin_host.cli.console import ProgressDisplay

# Whatever a file system, a project or a keyboard may hold, bytes that are not text among it.
ANY_TEXT = st.one_of(
    st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"])),
    st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.sampled_from(
        ["Vox [/dbl]", "[red]x", "[", "\x1b]0;PWNED\x07", ":smile:", "a\u2028b", "abc\u202egpj.exe"]
    ),
)
ENCODINGS = st.sampled_from(["utf-8", "cp1252", "ascii", "cp932", "latin-1"])


class Terminal(io.TextIOWrapper):
    """A stream in an encoding, of a terminal or not."""

    def __init__(self, encoding, *, is_terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def stdout(monkeypatch):
    """Put a stream in the place of stdout, and return it."""

    def replace(encoding, **options):
        stream = Terminal(encoding, **options)
        monkeypatch.setattr(sys, "stdout", stream)
        console.make_streams_lenient()
        return stream

    return replace


@given(ANY_TEXT)
def test_printable_text_is_one_line_that_moves_nothing(text):
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in shown)
    assert not any(unicodedata.bidirectional(each) in ("RLO", "LRO", "RLE") for each in shown)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_what_is_printable_stays_as_it_is(text):
    assert printable(text) == text


@given(st.recursive(ANY_TEXT | st.integers(), lambda v: st.lists(v) | st.dictionaries(ANY_TEXT, v)))
def test_any_value_can_be_encoded(value):
    json.dumps(encodable(value), ensure_ascii=False).encode()


@settings(max_examples=50)
@given(name=ANY_TEXT, encoding=ENCODINGS)
def test_any_name_is_a_line_in_any_encoding(name, encoding):
    with pytest.MonkeyPatch.context() as patch:
        out, err = Terminal(encoding), Terminal(encoding)
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        console.make_streams_lenient()
        console.say(f"a {name}")
        console.note(f"a {name}")
        console.say_table(["name", "n"], [(name, "1"), ("[b]", name)], title="[of] all")
        console.say_json({"name": name})
        printed = out.text()
        assert err.text() == printed.partition("\n")[0] + "\n"
    assert printed.startswith("a ")
    assert "\x1b" not in printed
    assert "[of] all" in printed
    assert "[b]" in printed
    assert json.loads(printed[printed.rindex("\n{") :])["name"] == name
    if name.isascii() and name.isprintable():
        assert printed.startswith(f"a {name}\n")


@settings(max_examples=50)
@given(title=ANY_TEXT, encoding=ENCODINGS, is_terminal=st.booleans())
def test_any_title_has_a_bar_or_lines(title, encoding, is_terminal):
    with pytest.MonkeyPatch.context() as patch:
        err = Terminal(encoding, is_terminal=is_terminal)
        patch.setattr(sys, "stderr", err)
        patch.setenv("TERM", "xterm")
        console.make_streams_lenient()
        with ProgressDisplay() as bars:
            bars.track(f"<{title}>")(Progress("solve", 1, 2))
            bars.track("Vox [/dbl]")(Progress("solve", 1, 2))
        shown = err.text()
    assert "Vox [/dbl]" in shown
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown


def test_a_document_is_whole_in_a_pipe_and_harmless_on_a_terminal(stdout):
    text = 'name = "\x9b2J"\nother = 1\n'
    out = stdout("utf-8")
    console.say_document(text)
    assert out.text() == text
    out = stdout("utf-8", is_terminal=True)
    console.say_document(text)
    assert out.text() == 'name = "\\x9b2J"\nother = 1\n'
