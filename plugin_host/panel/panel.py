"""The panel itself: the song or session that is open, the sidecar's client, and who watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bridge import Client, Prompt
from bridge.errors import InputError
from bridge.request import Settings
from plugin_host.panel.clips import Clips
from plugin_host.panel.song import Material, Song
from plugin_host.panel.tracks import Choice, SessionTracks
from presets import Preset

_DEFAULTS = Settings()


class Panel:
    """What all pages look at. To be used on the event loop only.

    Parameters
    ----------
    opened
        A file that was read, or a session.
    model
        Name of an installed model, or the path of a bundle.
    client
        To a server that has the model.
    settings
        For the takes to come.
    folder
        Where stems of a session's tracks are written as files; by default beside the session.
    network
        SAM 2, which follows what is clicked on in a clip; see `Clips`.

    Raises
    ------
    InputError
        The session has nothing that can be opened.
    """

    def __init__(
        self,
        opened: Material | SessionTracks,
        model: str,
        client: Client,
        settings: Settings = _DEFAULTS,
        folder: Path | None = None,
        network: str = "",
    ) -> None:
        self.model = model
        self.client = client
        self.tracks = opened if isinstance(opened, SessionTracks) else None
        self._loop = asyncio.get_running_loop()
        self.clips = Clips(model, network, self._clips_changed)
        self.watchers = 0
        self._folder = folder
        self._settings = settings
        self._revision = 0
        self._moved = asyncio.Condition()
        self._waking: asyncio.Task[None] | None = None
        self._closing = False
        self._songs: dict[str, Song] = {}
        self._choices: list[Choice] = []
        self._last = ""
        if isinstance(opened, Material):
            self.song = self._songs[""] = Song(opened, settings, self.changed, self.clips)
            return
        self.look_again()
        usable = next((choice for choice in self._choices if not choice.note), None)
        if usable is None:
            told = "; ".join(f"{choice.label}: {choice.note}" for choice in self._choices)
            raise InputError(
                f"{opened.path}: no track that can be opened ({told or 'none at all'})"
            )
        self.song = self._load(usable)

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        takes = [take for song in self._songs.values() for take in song.takes.all]
        return self.clips.busy or any(take.open for take in takes)

    # -- a session ---------------------------------------------------------------------------

    @property
    def choice(self) -> Choice:
        """What is open of the session; InputError if a file is open."""
        for choice in self._choices:
            if choice.key == self.song.key:
                return choice
        raise InputError("this track is not in the session any more; choose another")

    def look_again(self) -> None:
        """Read the list of tracks anew; SessionError if the session cannot be read. Any thread."""
        tracks = self.session
        self._choices, self._last = tracks.choices(), tracks.last()

    @property
    def session(self) -> SessionTracks:
        """The session; InputError if a file is open."""
        if self.tracks is None:
            raise InputError("a file is open, not a session; open one: stembridge panel song.rpp")
        return self.tracks

    async def choose(self, key: str) -> None:
        """Open another recording of the session; what was done to others stays.

        Raises
        ------
        InputError
            It cannot be opened.
        """
        choice = next((choice for choice in self._choices if choice.key == key), None)
        if choice is None:
            raise InputError("there is no such track in the session any more")
        known = self._songs.get(key)
        self.song = await asyncio.to_thread(self._load, choice) if known is None else known

    def _load(self, choice: Choice) -> Song:
        material = self.session.material(choice, self._folder)
        song = Song(
            material,
            self._settings,
            self.changed,
            self.clips,
            key=choice.key,
            number=len(self._songs) + 1,
        )
        if self._songs:
            # The same is looked for in all tracks as a rule; another track has other spans.
            rows = self.song.history.document.prompts
            song.history.replace_prompts(Prompt(row.text, row.name or None) for row in rows)
        self._songs[choice.key] = song
        return song

    # ----------------------------------------------------------------------------------------

    def changed(self) -> int:
        """Have all pages told, soon; many changes at once are told once.

        Returns
        -------
        int
            The revision of the first view that has the change.
        """
        self._revision += 1
        self.follow()
        if self._waking is None or self._waking.done():
            self._waking = asyncio.get_running_loop().create_task(self._wake())
        return self._revision

    def follow(self, *, again: bool = False) -> None:
        """Have followed what is clicked on in clips; see `Clips.follow`."""
        if not self._closing:
            documents = [song.history.document for song in self._songs.values()]
            rows = [row for document in documents for row in document.prompts]
            self.clips.follow([row.shown for row in rows], again=again)

    def _clips_changed(self) -> None:
        # On another thread; the loop may be closed when the last of them is given up.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.changed)

    async def take_preset(self, preset: Preset) -> None:
        """Replace prompts, clips, seed and levels by those of a preset.

        Raises
        ------
        InputError
            A clip is gone or was changed, or the model does not see.
        """
        song = self.song
        shown = await asyncio.to_thread(self.clips.of_preset, preset)
        song.take_preset(preset, shown)

    def view(self) -> dict[str, Any]:
        """Return what a page shows, as JSON has it."""
        session = None
        if self.tracks is not None:
            session = {
                "name": self.tracks.path.name,
                "tracks": [
                    {"key": choice.key, "label": choice.label, "note": choice.note}
                    for choice in self._choices
                ],
                "takes": self.tracks.has_takes,
                "undo": self._last,
            }
        return {
            "revision": self._revision,
            "model": self.model,
            "session": session,
            **self.song.view(),
        }

    async def views(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the view now, and after every change until the panel closes."""
        seen = -1
        self.watchers += 1
        try:
            while not self._closing:
                async with self._moved:
                    while self._revision == seen and not self._closing:
                        await self._moved.wait()
                seen = self._revision
                yield self.view()
        finally:
            self.watchers -= 1

    def run(self, *, whole: bool) -> str:
        """Start a take of the whole song, or a preview, and return its id.

        Raises
        ------
        InputError
            A prompt cannot be used.
        """
        song = self.song
        stretch = range(song.samples) if whole else song.preview_stretch()
        rows = song.history.document.prompts
        settings = song.settings
        if not whole and settings == replace(settings, steps=None, solver=None, grid=None):
            # A first look: what a bundle does quickly, unless somebody chose numbers.
            settings = replace(settings, quality="draft")
        take = song.takes.begin(self.client, rows, stretch, settings)
        song.current = take.id
        self.changed()
        return take.id

    def discard(self, take_id: str) -> None:
        """Throw a take away; InputError if it is to be kept."""
        song = self.song
        take = song.takes.get(take_id)
        if take.kept:
            raise InputError("that take is marked to be kept; unmark it first")
        song.takes.discard(take)
        if song.current == take_id:
            left = song.takes.all
            song.current = left[-1].id if left else None

    async def dismiss(self) -> None:
        """Let go of the pages, whose connections would otherwise outlast the server."""
        self._closing = True
        await self._wake()

    async def close(self) -> None:
        """Give up what runs, and let go of the pages and the sidecar."""
        await self.dismiss()
        for song in self._songs.values():
            await song.takes.close()
        await asyncio.to_thread(self.clips.close)
        await asyncio.to_thread(self.client.close)

    async def _wake(self) -> None:
        # Several changes come at once as a rule: a page wants the last of them.
        await asyncio.sleep(0 if self._closing else 0.03)
        async with self._moved:
            self._moved.notify_all()
