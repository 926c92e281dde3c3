"""What the user has written down in the panel: prompts, where they sound, and how stems are mixed.

Everything is a value. An edit is a message from a page; applying it gives a new document, so that
undo is a list of earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from bridge.errors import InputError
from bridge.request import RESIDUAL, Prompt, Span, is_safe_name

COLOURS: Final = 8
SHORTEST_SPAN_S: Final = 0.01
SILENT_DB: Final = -60.0
MAX_PROMPTS: Final = 64

Id = Annotated[str, Meta(min_length=1, max_length=40)]
Text = Annotated[str, Meta(max_length=200)]
Seconds = Annotated[float, Meta(ge=0.0)]


class StillMask(Struct, frozen=True):
    """A mask that was painted on a frame, and holds from there on until the next one.

    Attributes
    ----------
    at_s
        When the frame is shown.
    sha256
        Of its pixels.
    """

    at_s: float
    sha256: str


class Click(Struct, frozen=True):
    """A point on the thing that sounds in a clip, or beside it.

    Attributes
    ----------
    x, y
        In pixels of the clip, from its left upper corner.
    at_s
        When the frame is shown.
    on
        Whether the thing is there.
    """

    x: Annotated[float, Meta(ge=0.0)]
    y: Annotated[float, Meta(ge=0.0)]
    at_s: Seconds
    on: bool = True


class Shown(Struct, frozen=True):
    """What shows a prompt: a clip, and the masks over what sounds in it, in order of time.

    Attributes
    ----------
    clip
        Its id.
    masks
        None of them if the clip's frames are masked already, or a video masks them.
    mask_clip
        The id of a video that is bright where the thing is, if there is one instead.
    clicks
        What the mask is made from, if from clicks; the thing is followed through the clip.
    """

    clip: str
    masks: tuple[StillMask, ...] = ()
    mask_clip: str | None = None
    clicks: tuple[Click, ...] = ()


class PromptRow(Struct, frozen=True):
    """A prompt as the page shows it.

    Attributes
    ----------
    id
        Stays the same whatever else changes.
    text, name, spans
        As in `bridge.request.Prompt`; an empty name is the text's own.
    colour
        Which of the page's colours, from 0.
    shown
        The video that shows it, if any.
    """

    id: str
    text: str
    name: str = ""
    colour: int = 0
    spans: tuple[Span, ...] = ()
    shown: Shown | None = None

    @property
    def prompt(self) -> Prompt:
        """The prompt as `separate` takes it."""
        return Prompt(self.text.strip(), self.name.strip() or None, self.spans)

    @property
    def says_something(self) -> bool:
        """Whether anything was filled in."""
        return bool(self.text.strip() or self.spans or self.shown)


class Strip(Struct, frozen=True):
    """How a stem is heard.

    Attributes
    ----------
    gain_db
        -60 (silent) to 12.
    pan
        -1 (left) to 1 (right).
    mute, solo
        As on any mixer: what is muted is never heard, and if anything is soloed only that is.
    """

    gain_db: Annotated[float, Meta(ge=SILENT_DB, le=12.0)] = 0.0
    pan: Annotated[float, Meta(ge=-1.0, le=1.0)] = 0.0
    mute: bool = False
    solo: bool = False


class Document(Struct, frozen=True):
    """What undo brings back."""

    prompts: tuple[PromptRow, ...] = ()

    def row(self, row_id: str) -> PromptRow:
        """Return the prompt of an id; InputError if it is gone."""
        for row in self.prompts:
            if row.id == row_id:
                return row
        raise InputError("that prompt is not there any more; somebody removed it")

    def with_row(self, changed: PromptRow) -> Document:
        """Return the document with a prompt in the place of the one with the same id."""
        rows = tuple(changed if row.id == changed.id else row for row in self.prompts)
        return replace(self, prompts=rows)


class Edit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """Base of what a page may do to the document."""

    merges: ClassVar[bool] = False
    """Whether edits of the same kind and prompt, one right after the other, are undone as one."""


class AddPrompt(Edit, frozen=True, tag="add-prompt"):
    """Append a prompt."""

    text: Text = ""
    name: Text = ""


class ChangePrompt(Edit, frozen=True, tag="change-prompt"):
    """Change the words, the stem's name or the colour."""

    merges: ClassVar[bool] = True
    id: Id
    text: Text | UnsetType = UNSET
    name: Text | UnsetType = UNSET
    colour: Annotated[int, Meta(ge=0, lt=COLOURS)] | UnsetType = UNSET


class RemovePrompt(Edit, frozen=True, tag="remove-prompt"):
    """Remove a prompt with its spans."""

    id: Id


class MovePrompt(Edit, frozen=True, tag="move-prompt"):
    """Give a prompt another place, counted from 0."""

    id: Id
    to: Annotated[int, Meta(ge=0)]


class SetSpans(Edit, frozen=True, tag="set-spans"):
    """Replace the spans of a prompt."""

    id: Id
    spans: Annotated[tuple[Span, ...], Meta(max_length=1000)]


class RemoveClip(Edit, frozen=True, tag="remove-clip"):
    """Take the clip away from a prompt."""

    id: Id


class SetClicks(Edit, frozen=True, tag="set-clicks"):
    """Replace the clicks on a clip, from which its mask is made."""

    id: Id
    clicks: Annotated[tuple[Click, ...], Meta(max_length=100)]


AnyEdit = AddPrompt | ChangePrompt | RemovePrompt | MovePrompt | SetSpans | RemoveClip | SetClicks


@dataclass
class History:
    """The document with what it was before, and what was undone.

    Attributes
    ----------
    document
        As it is now.
    duration_s
        Of the audio that the spans lie in.
    """

    document: Document
    duration_s: float
    _undo: list[Document] = field(default_factory=list)
    _redo: list[Document] = field(default_factory=list)
    _last: tuple[type[Edit], str, float] | None = None
    _numbers: int = 0

    MERGE_S: ClassVar[float] = 2.0
    LONGEST: ClassVar[int] = 500

    def __post_init__(self) -> None:
        self._numbers = len(self.document.prompts)

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether something was undone that can be done again."""
        return bool(self._redo)

    def apply(self, edit: AnyEdit, now_s: float) -> None:
        """Do what an edit says.

        Parameters
        ----------
        edit
            From a page.
        now_s
            Any clock: typing is undone in stretches, not letter by letter.

        Raises
        ------
        InputError
            It cannot be done; the document is as it was.
        """
        changed = self._changed(edit)
        if changed == self.document:
            return
        target = getattr(edit, "id", "")
        merged = (
            edit.merges
            and self._last is not None
            and self._last[:2] == (type(edit), target)
            and now_s - self._last[2] < self.MERGE_S
        )
        self._last = (type(edit), target, now_s)
        self._put(changed, keep=not merged)

    def replace_prompts(
        self, prompts: Iterable[Prompt], shown: Sequence[Shown | None] = ()
    ) -> None:
        """Put prompts, of a preset for example, in the place of all there are.

        Parameters
        ----------
        prompts
            They.
        shown
            What shows each; nothing where it ends.
        """
        rows = tuple(
            PromptRow(
                self._new_id(),
                prompt.text,
                prompt.name or "",
                index % COLOURS,
                self._fitting(prompt.spans),
                shown[index] if index < len(shown) else None,
            )
            for index, prompt in enumerate(prompts)
        )
        self._last = None
        if rows or self.document.prompts:
            self._put(Document(rows), keep=True)

    def add_prompts(self, prompts: Iterable[Prompt]) -> None:
        """Append prompts; spans for a stem that is there already are added to it."""
        document = self.document
        for prompt in prompts:
            known = next((row for row in document.prompts if row.prompt.stem == prompt.stem), None)
            if known is not None:
                spans = self._fitting((*known.spans, *prompt.spans))
                document = document.with_row(replace(known, spans=spans))
                continue
            row = replace(
                self._new_row(document, prompt.text, prompt.name or ""),
                spans=self._fitting(prompt.spans),
            )
            document = replace(document, prompts=(*document.prompts, row))
        self._last = None
        self._put(document, keep=True)

    def show(self, row_id: str, shown: Shown) -> None:
        """Give a prompt a clip, or the clip other masks; InputError if the prompt is gone."""
        row = self.document.row(row_id)
        self._last = None
        if row.shown != shown:
            self._put(self.document.with_row(replace(row, shown=shown)), keep=True)

    def undo(self) -> None:
        """Go back by one edit, if there is one."""
        if self._undo:
            self._redo.append(self.document)
            self.document = self._undo.pop()
        self._last = None

    def redo(self) -> None:
        """Do again what was undone last, if anything was."""
        if self._redo:
            self._undo.append(self.document)
            self.document = self._redo.pop()
        self._last = None

    def _put(self, document: Document, *, keep: bool) -> None:
        if len(document.prompts) > MAX_PROMPTS:
            raise InputError(f"{MAX_PROMPTS} prompts are the most; remove one first")
        if keep:
            self._undo.append(self.document)
            del self._undo[: -self.LONGEST]
        self._redo.clear()
        self.document = document

    def _changed(self, edit: AnyEdit) -> Document:
        document = self.document
        if isinstance(edit, AddPrompt):
            row = self._new_row(document, edit.text, edit.name)
            return replace(document, prompts=(*document.prompts, _checked(row)))
        row = document.row(edit.id)
        if isinstance(edit, RemovePrompt):
            return replace(document, prompts=tuple(r for r in document.prompts if r is not row))
        if isinstance(edit, MovePrompt):
            rows = [other for other in document.prompts if other is not row]
            rows.insert(edit.to, row)
            return replace(document, prompts=tuple(rows))
        if isinstance(edit, SetSpans):
            return document.with_row(replace(row, spans=self._fitting(edit.spans)))
        if isinstance(edit, RemoveClip | SetClicks):
            shown = None
            if isinstance(edit, SetClicks):
                if row.shown is None:
                    raise InputError("the clip is not there any more; drop it again")
                shown = Shown(row.shown.clip, clicks=edit.clicks)
            return document.with_row(replace(row, shown=shown))
        given = {
            name: value
            for name in ("text", "name", "colour")
            if (value := getattr(edit, name)) is not UNSET
        }
        return document.with_row(_checked(replace(row, **given)))

    def _new_row(self, document: Document, text: str, name: str) -> PromptRow:
        used = [row.colour for row in document.prompts]
        colour = min(range(COLOURS), key=lambda index: (used.count(index), index))
        return PromptRow(self._new_id(), text, name, colour)

    def _new_id(self) -> str:
        self._numbers += 1
        return f"p{self._numbers}"

    def _fitting(self, spans: Iterable[Span]) -> tuple[Span, ...]:
        """Cut spans to the audio and leave out what is too short to be meant."""
        cut = (
            Span(max(span.start_s, 0.0), min(span.end_s, self.duration_s), span.polarity)
            for span in spans
        )
        kept = {span: None for span in cut if span.end_s - span.start_s >= SHORTEST_SPAN_S}
        # In the order given: where spans overlap, later ones win.
        return tuple(kept)


def _checked(row: PromptRow) -> PromptRow:
    name = row.name.strip()
    if name and (not is_safe_name(name) or name.casefold() == RESIDUAL):
        raise InputError(f"{name!r} cannot name a stem; use letters, digits and dashes")
    return row
