"""REAPER's project text as a tree of lines that writes back byte for byte.

A line that begins with ``<`` opens a chunk and one that is ``>`` ends it. Everything is kept as
it was read, line ends and odd characters included; new lines take the file's own line end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from plugin_host.daw.session import SessionError

_FIELD = re.compile(r'"[^"]*"|\'[^\']*\'|`[^`]*`|[^ \t\r\n]+')


@dataclass
class Chunk:
    """A chunk: its opening line, what is in it, its closing line; lines with their ends."""

    opening: str
    children: list[str | Chunk] = field(default_factory=list)
    closing: str = ""

    @property
    def kind(self) -> str:
        """The word after ``<``."""
        return self.opening.strip()[1:].split(" ", 1)[0]

    def chunks(self, kind: str) -> list[Chunk]:
        """Return the chunks of a kind directly inside."""
        return [c for c in self.children if isinstance(c, Chunk) and c.kind == kind]

    def lines(self, key: str) -> Iterator[tuple[int, list[str]]]:
        """Yield index and fields of the lines directly inside that begin with a word."""
        for index, child in enumerate(self.children):
            if isinstance(child, str) and child.split(None, 1)[:1] == [key]:
                yield index, split_fields(child)

    def fields(self, key: str) -> list[str] | None:
        """Return the fields of the first such line, the word itself left out."""
        return next((fields[1:] for _, fields in self.lines(key)), None)

    def text(self) -> str:
        """Return the chunk as it stands in the file."""
        inside = (c if isinstance(c, str) else c.text() for c in self.children)
        return self.opening + "".join(inside) + self.closing


def parse(text: str) -> Chunk:
    """Read a project into a chunk without lines of its own, which holds the project's.

    Raises
    ------
    SessionError
        Chunks do not match, or there is no project in it.
    """
    root = Chunk("")
    stack = [root]
    number = 0
    # Only \n ends a line here: REAPER lets other separators stand inside strings.
    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+$", text), 1):
        bare = line.strip(" \t\r\n")
        if bare.startswith("<"):
            chunk = Chunk(line)
            stack[-1].children.append(chunk)
            stack.append(chunk)
        elif bare == ">":
            if len(stack) == 1:
                raise SessionError(
                    f"line {number} ends a chunk that none begins; the project is damaged"
                )
            stack.pop().closing = line
        else:
            stack[-1].children.append(line)
    if len(stack) != 1 or not root.chunks("REAPER_PROJECT"):
        raise SessionError(
            f"not a complete REAPER project: it breaks off in line {number}; use an earlier copy "
            "of it, as REAPER keeps them in .rpp-bak files"
        )
    return root


def split_fields(line: str) -> list[str]:
    """Split a line at spaces; a field in quotes, of any of REAPER's three kinds, is one."""
    fields = _FIELD.findall(line)
    return [f[1:-1] if len(f) >= 2 and f[0] == f[-1] and f[0] in "\"'`" else f for f in fields]


def replace_fields(line: str, values: Mapping[int, str]) -> str:
    """Return a line with other fields at some places; 0 is its first word. Spaces stay."""
    found = [match.span() for match in _FIELD.finditer(line)]
    for index, value in sorted(values.items(), reverse=True):
        if index < len(found):
            start, end = found[index]
            line = line[:start] + value + line[end:]
    return line


def quote(text: str) -> str:
    """Write a text as a field, in quotes it does not hold itself."""
    text = re.sub(r"[\r\n]+", " ", text)
    if text and not re.search(r"[\s\"'`]", text) and text[0] not in "<>#":
        return text
    for mark in "\"'`":
        if mark not in text:
            return f"{mark}{text}{mark}"
    return "`" + text.replace("`", "'") + "`"


def word(child: str | Chunk) -> str:
    """Return the first word of a line, or the kind of a chunk."""
    if isinstance(child, Chunk):
        return child.kind
    return (child.split(None, 1) or [""])[0]
