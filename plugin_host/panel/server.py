"""The panel over HTTP: the page, its events, edits, tiles, audio and files; and serving it.

Any web page that the user has open may send requests to a port of this machine, and a name that
resolves to 127.0.0.1 makes it look at home (DNS rebinding). So the address holds a secret, the
Host must be the machine itself, and a request that comes from a page must come from ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import socket
import tempfile
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import msgspec
import uvicorn
from msgspec import Meta, Struct
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge import Client
from bridge.connection.connection import ask
from bridge.errors import InputError, ServerError, StembridgeError, encodable, with_next_step
from bridge.files import has_ipc, runtime_directory
from bridge.wire.messages import Cancel, GetJobs, Jobs, Ok
from bridge.wire.sockets import Address, find_address
from plugin_host.daw.project_presets import SessionStore, project_presets
from plugin_host.files.audio_files import write_audio
from plugin_host.files.span_files import prompts_from_labels, read_labels, read_midi_spans
from plugin_host.panel.document import AnyEdit, Id, Seconds, SetSpans, Strip
from plugin_host.panel.drawing import LEVELS
from plugin_host.panel.panel import Panel
from plugin_host.panel.song import Material
from plugin_host.panel.takes import Sound
from plugin_host.panel.tracks import SessionTracks
from presets import Preset, PresetStore, find_preset, library
from presets.library import FolderStore, check_new_name, list_names, user_store
from presets.preset import check_preset

POLICY: Final[Mapping[str, str]] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Guard:
    """Lets requests through whose path begins with the secret, and takes it off the path.

    Everything else gets status 403 and no word why.

    Parameters
    ----------
    app
        What is guarded.
    token
        The secret.
    port
        Where the server listens.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        path = self._path(scope)
        if scope["type"] != "http" or path is None:
            await Response(status_code=403, headers=dict(POLICY))(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in POLICY.items()]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        inner = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(inner, receive, send_with_policy)

    def _path(self, scope: Scope) -> str | None:
        """Return the path without the secret, or None if the request may not pass."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return None
        if any(origin.lower() not in self._origins for origin in origins):
            return None
        # "none" is an address typed or opened by the user; same-site would be another port.
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return None
        parts = str(scope["path"]).split("/", 2)
        if len(parts) != 3 or not secrets.compare_digest(parts[1].encode(), self._token):
            return None
        return "/" + parts[2]


HOST: Final = "127.0.0.1"
_LARGEST_BODY_BYTES: Final = 4 << 20
_LARGEST_CLIP_BYTES: Final = 2 << 30
_MOST_SAMPLES: Final = 1 << 22
_HEARTBEAT_S: Final = 15.0
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_EMPTY: Final = Preset()

T = TypeVar("T")
Name = Annotated[str, Meta(max_length=200)]


class _Nothing(Struct, forbid_unknown_fields=True):
    """Nothing has to be said."""


class _Mix(Struct, forbid_unknown_fields=True):
    """How a stem is to be heard from now on."""

    key: Id
    strip: Strip


class _Select(Struct, forbid_unknown_fields=True):
    """What is selected from now on, in seconds."""

    stretch: tuple[Seconds, Seconds] | None


class _Seed(Struct, forbid_unknown_fields=True):
    seed: Annotated[int, Meta(ge=0, le=2**53)]


class _Run(Struct, forbid_unknown_fields=True):
    whole: bool


class _TakeChange(Struct, forbid_unknown_fields=True):
    """What is to happen to a take; what is absent stays."""

    id: Id
    name: Name | None = None
    kept: bool | None = None
    chosen: bool = False
    cancel: bool = False
    discard: bool = False


class _Follow(Struct, forbid_unknown_fields=True):
    """Whether the clicks on the clip of a prompt are to be followed."""

    id: Id
    cancel: bool = False


class _Range(Struct, forbid_unknown_fields=True):
    start: Annotated[int, Meta(ge=0)]
    stop: Annotated[int, Meta(ge=1)]


class _SaveStems(Struct, forbid_unknown_fields=True):
    overwrite: bool = False


class _SavePreset(Struct, forbid_unknown_fields=True):
    name: Name
    project: bool = False
    description: Name = ""
    overwrite: bool = False


class _LoadPreset(Struct, forbid_unknown_fields=True):
    name: Name


class _Choose(Struct, forbid_unknown_fields=True):
    key: Annotated[str, Meta(max_length=4000)]


class _AddToSession(Struct, forbid_unknown_fields=True):
    takes: bool = False
    mute: bool = False


class _CancelJob(Struct, forbid_unknown_fields=True):
    key: Name


class Routes:
    """What a request comes to.

    Parameters
    ----------
    panel
        The panel that is shown.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._page = {
            file.name: file.read_bytes()
            for file in resources.files("plugin_host.panel").joinpath("page").iterdir()
            if Path(file.name).suffix in _TYPES
        }

    def routes(self) -> list[Route]:
        """Return the table."""
        sound = "{take}/{key}"
        tile = sound + "/{level:int}/{index:int}"
        return [
            Route("/events", self.events),
            self._post("/edit", AnyEdit, self.edit),
            self._post("/undo", _Nothing, self.undo),
            self._post("/redo", _Nothing, self.redo),
            self._post("/mix", _Mix, self.set_mix),
            self._post("/select", _Select, self.select),
            self._post("/seed", _Seed, self.set_seed),
            self._post("/run", _Run, self.run),
            self._post("/take", _TakeChange, self.change_take),
            self._post("/loudness", _Range, self.loudness),
            Route("/marks/{prompt}/{name:path}", self.drop_marks, methods=["POST"]),
            Route("/clip/{prompt}/{name:path}", self.drop_clip, methods=["POST"]),
            Route("/mask-clip/{prompt}/{name:path}", self.drop_mask_clip, methods=["POST"]),
            Route("/clip/{clip}/frame", self.frame),
            Route("/mask/{prompt}", self.paint, methods=["POST"]),
            Route("/mask/{prompt}/{name:path}", self.mask_file),
            self._post("/follow", _Follow, self.follow),
            Route("/mask/{sha256}", self.mask),
            self._post("/stems", _SaveStems, self.save_stems),
            self._post("/track", _Choose, self.choose_track),
            self._post("/session/look", _Nothing, self.look_again),
            self._post("/session/add", _AddToSession, self.add_to_session),
            self._post("/session/undo", _Nothing, self.undo_in_session),
            Route("/presets", self.list_presets),
            self._post("/preset", _SavePreset, self.save_preset),
            self._post("/preset/load", _LoadPreset, self.load_preset),
            Route("/jobs", self.list_jobs),
            self._post("/jobs/cancel", _CancelJob, self.cancel_job),
            Route(f"/peaks/{tile}", self.peaks),
            Route(f"/bands/{tile}", self.bands),
            Route(f"/audio/{sound}", self.audio),
            Route("/file/{take}/{key}/{name:path}", self.stem_file),
            Route("/mix/{take}/{name:path}", self.mix_file),
            Route("/{name:path}", self.page),
        ]

    # -- the page ----------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Serve a file of the page, by its name in a list; nothing is looked up on the disk."""
        name = request.path_params["name"] or "index.html"
        content = self._page.get(name)
        if content is None:
            return _refuse("there is no such page", 404)
        return Response(content, headers={"content-type": _TYPES[Path(name).suffix]})

    async def events(self, request: Request) -> Response:
        """Stream what is to be shown, as server-sent events."""
        del request
        stream = _with_heartbeat(self._panel.views())
        return StreamingResponse(stream, media_type="text/event-stream")

    # -- what is written down ----------------------------------------------------------------

    def edit(self, edit: AnyEdit) -> None:
        """Change prompts or spans."""
        self._panel.song.history.apply(edit, time.monotonic())

    def undo(self, _: _Nothing) -> None:
        """Take the last edit back."""
        self._panel.song.history.undo()

    def redo(self, _: _Nothing) -> None:
        """Do again what was undone."""
        self._panel.song.history.redo()

    def set_mix(self, wanted: _Mix) -> None:
        """Set gain, pan, mute and solo of a stem."""
        self._panel.song.strips[wanted.key] = wanted.strip

    def select(self, wanted: _Select) -> None:
        """Select a stretch."""
        self._panel.song.select(wanted.stretch)

    def set_seed(self, wanted: _Seed) -> None:
        """Choose the noise of the next takes."""
        song = self._panel.song
        song.settings = replace(song.settings, seed=wanted.seed)

    async def drop_marks(self, request: Request) -> Response:
        """Take spans from a dropped MIDI file, or prompts with spans from a file of labels."""
        name, prompt_id = request.path_params["name"], request.path_params["prompt"]
        content = await _read(request)
        history = self._panel.song.history
        with tempfile.TemporaryDirectory() as folder:
            # The readers want a file; the name is for messages only, so one's own will do.
            suffix = ".mid" if content.startswith((b"MThd", b"RIFF")) else ".txt"
            path = Path(folder) / f"dropped{suffix}"
            path.write_bytes(content)
            try:
                if suffix == ".txt":
                    prompts = prompts_from_labels(read_labels(path))
                    if not prompts:
                        raise InputError(f"{path}: no labels in it")
                    history.add_prompts(prompts)
                else:
                    row = history.document.row(prompt_id)
                    spans = (*row.spans, *read_midi_spans(path))
                    history.apply(SetSpans(id=row.id, spans=spans), time.monotonic())
            except InputError as error:
                raise InputError(str(error).replace(str(path), name)) from None
        return self._done()

    # -- videos ------------------------------------------------------------------------------

    async def drop_clip(self, request: Request) -> Response:
        """Take a clip that was dropped, to show a prompt."""
        return await self._take_clip(request, is_mask=False)

    async def drop_mask_clip(self, request: Request) -> Response:
        """Take a video that masks the clip of a prompt."""
        return await self._take_clip(request, is_mask=True)

    async def _take_clip(self, request: Request, *, is_mask: bool) -> Response:
        panel, history = self._panel, self._panel.song.history
        row = history.document.row(request.path_params["prompt"])
        if is_mask and row.shown is None:
            raise InputError("a mask needs the clip that it belongs to; drop that first")
        path = panel.clips.place()
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
                if file.tell() > _LARGEST_CLIP_BYTES:
                    raise InputError(
                        f"more than {_LARGEST_CLIP_BYTES >> 30} GB; cut the clip to the song"
                    )
        name, over = request.path_params["name"], row.shown if is_mask else None
        history.show(row.id, await asyncio.to_thread(panel.clips.add, path, name, over))
        return self._done()

    async def frame(self, request: Request) -> Response:
        """Serve a frame: when it begins, in microseconds as int64, and its RGB pixels."""
        at_s = _number(request, "at") / 1e6
        clip = request.path_params["clip"]
        time_s, picture = await asyncio.to_thread(self._panel.clips.frame, clip, at_s)
        return _binary(round(time_s * 1e6).to_bytes(8, "little", signed=True) + picture.tobytes())

    async def paint(self, request: Request) -> Response:
        """Take the mask that was painted on a frame."""
        history = self._panel.song.history
        row = history.document.row(request.path_params["prompt"])
        if row.shown is None:
            raise InputError("the clip is not there any more; drop it again")
        at_s = _number(request, "at") / 1e6
        history.show(row.id, self._panel.clips.paint(row.shown, at_s, await _read(request)))
        return self._done()

    async def mask(self, request: Request) -> Response:
        """Serve a mask: a byte for each pixel."""
        return _binary(self._panel.clips.mask(request.path_params["sha256"]).tobytes())

    async def mask_file(self, request: Request) -> Response:
        """Serve the masks of a prompt as the video that ``separate --mask`` takes."""
        row = self._panel.song.history.document.row(request.path_params["prompt"])
        if row.shown is None:
            raise InputError("the prompt has no clip")
        shown = row.shown
        name, kind = ("mask.mp4", "mp4") if shown.clicks else ("mask.mkv", "x-matroska")
        return await _download(
            name, lambda path: self._panel.clips.write_mask(shown, path), f"video/{kind}"
        )

    def follow(self, wanted: _Follow) -> None:
        """Give up following what is clicked on in a clip, or begin again."""
        panel = self._panel
        if wanted.cancel:
            panel.clips.cancel(panel.song.history.document.row(wanted.id).shown)
        else:
            panel.follow(again=True)

    # -- takes -------------------------------------------------------------------------------

    def run(self, wanted: _Run) -> dict[str, Any]:
        """Start a preview or a take of the whole song."""
        return {"take": self._panel.run(whole=wanted.whole)}

    def change_take(self, change: _TakeChange) -> None:
        """Choose, name, keep, cancel or throw away a take."""
        song = self._panel.song
        take = song.takes.get(change.id)
        if change.cancel:
            song.takes.cancel(take)
        if change.name is not None:
            take.name = change.name.strip()
        if change.kept is not None:
            take.kept = change.kept
        if change.chosen:
            song.current = take.id
        if change.discard:
            self._panel.discard(take.id)

    async def loudness(self, stretch: _Range) -> dict[str, Any]:
        """Measure the original and the mix as it is heard."""
        song = self._panel.song
        take = song.audible(song.current)
        levels = await asyncio.to_thread(song.loudness, take, range(stretch.start, stretch.stop))
        return levels

    # -- what is seen and heard --------------------------------------------------------------

    async def peaks(self, request: Request) -> Response:
        """Serve a tile of a waveform: int16 pairs, little-endian."""
        sound, level, index = self._tile(request)
        tile = sound.peaks.tile(level, index)
        return _binary(tile.astype("<i2", copy=False).tobytes())

    async def bands(self, request: Request) -> Response:
        """Serve a tile of a spectrogram: uint8, column after column."""
        sound, level, index = self._tile(request)
        tile = await asyncio.wrap_future(sound.tile(level, index, self._panel.song.rate))
        return _binary(tile.tobytes())

    async def audio(self, request: Request) -> Response:
        """Serve a stretch of a sound: float32, little-endian, channel after channel."""
        sound = self._panel.song.sound(request.path_params["take"], request.path_params["key"])
        start, samples = _number(request, "start"), _number(request, "samples")
        if samples > _MOST_SAMPLES:
            raise InputError(f"{samples} samples at once; ask for at most {_MOST_SAMPLES}")
        stretch = await asyncio.to_thread(
            lambda: sound.read(start, samples).astype("<f4", copy=False).tobytes()
        )
        return _binary(stretch)

    # -- into the work -----------------------------------------------------------------------

    async def stem_file(self, request: Request) -> Response:
        """Serve a stem as the file that ``separate`` would write."""
        panel, song = self._panel, self._panel.song
        take = song.finished(request.path_params["take"])
        key = request.path_params["key"]
        song.sound(take.id, key)
        name = f"{song.material.info.path.stem} {take.stem(key)}.wav"
        return await _download(name, lambda path: song.write_stem(take, key, panel.model, path))

    async def mix_file(self, request: Request) -> Response:
        """Serve the mix as it is heard, of the stretch of the take."""
        song = self._panel.song
        take = song.finished(request.path_params["take"])
        stretch = range(take.start, take.start + take.samples)
        return await _download(
            f"{song.material.info.path.stem} mix.wav",
            lambda path: write_audio(path, song.heard(take, stretch), song.rate),
        )

    async def save_stems(self, wanted: _SaveStems) -> dict[str, Any]:
        """Write the stems beside the song."""
        song = self._panel.song
        take = song.finished(song.current)
        files = await asyncio.to_thread(
            song.save_stems, take, self._panel.model, overwrite=wanted.overwrite
        )
        return {"files": {name: str(path) for name, path in files.items()}}

    async def choose_track(self, wanted: _Choose) -> None:
        """Open another track of the session."""
        await self._panel.choose(wanted.key)

    async def look_again(self, _: _Nothing) -> None:
        """List the session's tracks as it was saved last."""
        await asyncio.to_thread(self._panel.look_again)

    async def add_to_session(self, wanted: _AddToSession) -> dict[str, Any]:
        """Add the stems of the take to the session."""
        panel, song = self._panel, self._panel.song
        take = song.finished(song.current)
        notes = await asyncio.to_thread(
            panel.session.add,
            panel.choice,
            song,
            take,
            as_takes=wanted.takes,
            mute=wanted.mute,
        )
        await asyncio.to_thread(panel.look_again)
        self._panel.changed()
        return {"stems": [take.stem(key) for key in take.sounds], "notes": notes}

    async def undo_in_session(self, _: _Nothing) -> dict[str, Any]:
        """Take away from the session what was added to it last."""
        panel = self._panel
        label = await asyncio.to_thread(panel.session.undo)
        await asyncio.to_thread(panel.look_again)
        self._panel.changed()
        return {"gone": label}

    async def list_presets(self, request: Request) -> Response:
        """List the presets that can be taken up."""
        del request
        rows = [
            {"name": name, "where": store.label}
            for store, name, hidden in list_names(self._stores())
            if not hidden
        ]
        return _json({"presets": rows})

    async def save_preset(self, wanted: _SavePreset) -> dict[str, Any]:
        """Save prompts, spans, clips, seed and levels as a preset."""
        song, name = self._panel.song, wanted.name.strip()
        store = self._project_store() if wanted.project else user_store()
        check_new_name(store, name)

        def save() -> None:
            preset = song.preset(wanted.description, self._panel.model, store.keep_file)
            store.save(name, check_preset(preset), overwrite=wanted.overwrite)

        await asyncio.to_thread(save)
        return {"saved": name, "where": store.label}

    async def load_preset(self, wanted: _LoadPreset) -> None:
        """Take up the prompts of a preset, and the clips that show them."""
        # A name only: a path would let a page read files that the user did not open.
        if wanted.name not in [name for _, name, _ in list_names(self._stores())]:
            raise InputError(f"there is no preset {wanted.name!r} any more")
        await self._panel.take_preset(find_preset(wanted.name, self._stores()))

    async def list_jobs(self, request: Request) -> Response:
        """List what the sidecar does for everybody."""
        del request
        try:
            found = await asyncio.to_thread(ask, _sidecar(), GetJobs(), Jobs)
        except ServerError:
            return _json({"jobs": []})
        wanted = [job for job in found.jobs if job.state in ("queued", "running")]
        return _json({"jobs": msgspec.to_builtins(wanted)})

    async def cancel_job(self, wanted: _CancelJob) -> None:
        """Cancel a job of the sidecar for everybody who waits for it."""
        await asyncio.to_thread(ask, _sidecar(), Cancel(key=wanted.key), Ok)

    # ----------------------------------------------------------------------------------------

    def _post(self, path: str, kind: Any, act: Callable[[Any], Any]) -> Route:
        """Route messages of a kind to what is done with them.

        What gives no answer of its own has changed what is shown, and pages are told.
        """

        async def answer(request: Request) -> Response:
            told = act(await _body(request, kind))
            if inspect.isawaitable(told):
                told = await told
            return self._done() if told is None else _json(told)

        return Route(path, answer, methods=["POST"])

    def _done(self) -> Response:
        return _json({"revision": self._panel.changed()})

    def _tile(self, request: Request) -> tuple[Sound, int, int]:
        params = request.path_params
        if params["level"] >= LEVELS:
            raise InputError(f"level {params['level']}; expected 0 to {LEVELS - 1}")
        sound = self._panel.song.sound(params["take"], params["key"])
        return sound, params["level"], params["index"]

    def _project_store(self) -> FolderStore | SessionStore:
        return project_presets(self._panel.song.material.project)

    def _stores(self) -> list[PresetStore]:
        return library(self._project_store())


def application(panel: Panel, token: str, port: int) -> Guard:
    """Return the guarded application of a panel."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await panel.close()

    app = Starlette(
        routes=list(Routes(panel).routes()),
        lifespan=lifespan,
        exception_handlers={StembridgeError: _refuse_error},
    )
    return Guard(app, token, port)


def serve(
    opening: Material | SessionTracks,
    model: str,
    *,
    folder: Path | None = None,
    port: int = 0,
    preset: Preset = _EMPTY,
    idle_timeout_s: float | None = None,
    network: str = "",
    opened: Callable[[str], None] = print,
) -> None:
    """Show a panel until the process is interrupted, or nobody has looked at it for a while.

    Parameters
    ----------
    opening
        What to show: a file that was read, or a session.
    model
        Name of an installed model, or the path of a bundle.
    folder
        See `Panel`.
    port
        Of 127.0.0.1; 0 for any that is free.
    preset
        To begin with.
    idle_timeout_s
        Ends after so long without a page and without a job; None for never.
    network
        See `Panel`.
    opened
        Called with the address once the panel can be reached.

    Raises
    ------
    InputError
        The port is taken.
    StembridgeError
        There is no such model.
    """
    listener = socket.socket()
    with contextlib.closing(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror or error}); choose another --port"
            ) from error
        chosen = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        asyncio.run(
            _serve(
                listener,
                opening,
                model,
                folder=folder,
                preset=preset,
                token=token,
                idle_timeout_s=idle_timeout_s,
                network=network,
                opened=lambda: opened(f"http://{HOST}:{chosen}/{token}/"),
            )
        )


async def _serve(
    listener: socket.socket,
    opening: Material | SessionTracks,
    model: str,
    *,
    folder: Path | None,
    preset: Preset,
    token: str,
    idle_timeout_s: float | None,
    network: str,
    opened: Callable[[], None],
) -> None:
    panel = Panel(opening, model, Client.local(model=model), folder=folder, network=network)
    await panel.take_preset(preset)
    config = uvicorn.Config(
        application(panel, token, listener.getsockname()[1]),
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)

    async def watch() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        opened()
        seen = time.monotonic()
        while not server.should_exit:
            await asyncio.sleep(0.2)
            if panel.watchers or panel.busy:
                seen = time.monotonic()
            elif idle_timeout_s is not None and time.monotonic() - seen > idle_timeout_s:
                server.should_exit = True
        await panel.dismiss()

    watching = asyncio.create_task(watch())
    try:
        await server.serve(sockets=[listener])
    finally:
        watching.cancel()


async def _with_heartbeat(views: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    """Turn views into events, with a comment now and then so that a dead page is noticed."""
    waiting: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            if waiting is None:
                waiting = asyncio.ensure_future(anext(views))
            done, _ = await asyncio.wait([waiting], timeout=_HEARTBEAT_S)
            if not done:
                yield b": still here\n\n"
                continue
            try:
                view = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield b"data: " + msgspec.json.encode(encodable(view)) + b"\n\n"
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _read(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_BODY_BYTES:
            raise InputError(f"more than {_LARGEST_BODY_BYTES >> 20} MB; expected a small file")
    return bytes(content)


async def _body(request: Request, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(await _read(request), type=kind)
    except msgspec.MsgspecError as error:
        raise InputError(f"the page sent something unexpected ({error}); reload it") from None


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InputError(f"{name} is {text!r}; expected a whole number")
    return int(text)


async def _download(
    name: str, write: Callable[[Path], None], media_type: str = "audio/wav"
) -> Response:
    """Have a file written to a temporary place, and serve it under a name."""
    folder = tempfile.TemporaryDirectory(prefix="stembridge-panel-")
    path = Path(folder.name) / "audio.wav"
    try:
        await asyncio.to_thread(write, path)
    except BaseException:
        folder.cleanup()
        raise
    name = encodable(name)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = "".join(c for c in plain if c.isalnum() or c in " .-_") or "audio.wav"
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    return FileResponse(
        path,
        media_type=media_type,
        headers={"content-disposition": disposition},
        background=BackgroundTask(folder.cleanup),
    )


def _sidecar() -> Address:
    return find_address(runtime_directory(), ipc=has_ipc())


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(encodable(content)), status, media_type="application/json")


def _binary(content: bytes) -> Response:
    return Response(content, media_type="application/octet-stream")


def _refuse(message: str, status: int = 400) -> Response:
    return _json({"error": message}, status)


async def _refuse_error(request: Request, error: Exception) -> Response:
    del request
    return _refuse(with_next_step(error) if isinstance(error, StembridgeError) else str(error))
