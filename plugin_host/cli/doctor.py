"""``stembridge doctor``: what works on this machine, and what to do about the rest.

Nothing is changed, and nothing is believed that can be tried: a provider is there if a graph ran on
it, a bundle is whole if its checksums are right, a sidecar runs if it answers.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import psutil
import typer
from filelock import FileLock, Timeout
from msgspec import Struct

from bridge.bundles.bundle import list_bundles, load_manifest, verify_files
from bridge.connection.connection import ask
from bridge.errors import InputError, StembridgeError, reason_of
from bridge.files import cache_directory, has_ipc, log_file, runtime_directory
from bridge.wire.messages import GetStatus, Status
from bridge.wire.sockets import find_address
from plugin_host.cli.console import JsonOption, note, say, say_json
from plugin_host.cli.daw import installed_scripts
from plugin_host.cost import measure_cost, remembered_cost, song_memory_bytes, time_told

State = Literal["good", "note", "bad"]
"""``"note"`` is worth knowing and may be meant so; ``"bad"`` does not work."""

# y = x @ x for a 2 by 2 matrix, as onnx.helper makes it.
_TINY_GRAPH: Final = base64.b64decode(
    "CAkSADpAChEKAXgKAXgSAXkiBk1hdE11bBIBZ1oTCgF4Eg4KDAgBEggKAggCCgIIAmITCgF5Eg4KDAgBEggKAggCCgII"
    "AkIECgAQEQ=="
)
_PACKAGES: Final = (
    "stembridge", "numpy", "msgspec", "pyzmq", "onnxruntime", "onnxruntime-gpu", "tokenizers",
    "soxr", "soundfile", "pedalboard", "mido", "starlette", "uvicorn", "JACK-Client", "av", "torch",
)  # fmt: skip
_EXTRAS: Final = {
    "panel": "starlette",
    "live": "jack",
    "video": "av",
    "export": "torch",
}
#: Of CUDA 12 and 13 and of cuDNN 9, as ONNX Runtime's builds ask for them.
_CUDA_LIBRARIES: Final = {
    "the CUDA runtime": ("libcudart.so.12", "libcudart.so.13", "cudart64_12.dll"),
    "cuBLAS": ("libcublasLt.so.12", "libcublasLt.so.13", "cublasLt64_12.dll"),
    "cuFFT": ("libcufft.so.11", "libcufft.so.12", "cufft64_11.dll"),
    "cuDNN": ("libcudnn.so.9", "cudnn64_9.dll"),
}
_LEAST_FREE_BYTES: Final = 2_000_000_000
_SLOW_ANSWER_S: Final = 0.5


class Finding(Struct, frozen=True):
    """One thing that was looked at.

    Attributes
    ----------
    area
        What it belongs to: program, providers, sidecar, disk, bundles, scripts or jack.
    name
        What was looked at.
    state
        See `State`.
    found
        What is so.
    advice
        What to do about it; empty if there is nothing to do.
    """

    area: str
    name: str
    state: State
    found: str
    advice: str = ""


def examine(
    *, measure: bool = True, told: Callable[[str], None] = lambda _: None
) -> Iterator[Finding]:
    """Look at everything and yield what is found, as it is found.

    Parameters
    ----------
    measure
        Separate a little noise with every bundle that was not measured before, for the time that
        a song takes; a large model is busy with that for minutes.
    told
        Is called with a line before anything that takes long.
    """
    yield from _program()
    yield from _providers()
    yield from _sidecar()
    yield from _disk()
    yield from _bundles(measure=measure, told=told)
    yield from _scripts()
    yield from _jack()


def versions() -> dict[str, str]:
    """Return the versions of all that is involved; packages that are absent are left out."""
    found = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{psutil.cpu_count(logical=False) or '?'} cores, {os.cpu_count()} threads",
        "memory": f"{psutil.virtual_memory().total / 1e9:.1f} GB",
    }
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


# -- what is looked at -----------------------------------------------------------------------


def _program() -> Iterator[Finding]:
    known = versions()
    yield Finding(
        "program",
        "versions",
        "good",
        f"stembridge {known.get('stembridge', 'from its source')}, Python {known['python']}, "
        f"{known['system']}",
    )
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if name in known]
    if len(both) == 2:
        yield Finding(
            "program",
            "ONNX Runtime",
            "bad",
            "onnxruntime and onnxruntime-gpu are both installed; they overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install stembridge again",
        )
    elif both:
        yield Finding("program", "ONNX Runtime", "good", f"{both[0]} {known[both[0]]}")
    absent = [extra for extra, module in _EXTRAS.items() if not importlib.util.find_spec(module)]
    yield Finding(
        "program",
        "extras",
        "note" if absent else "good",
        f"not installed: {', '.join(absent)}" if absent else "all that are for users",
        f"if you want them: pip install 'stembridge[{','.join(absent)}]'" if absent else "",
    )


def _providers() -> Iterator[Finding]:
    from bridge.inference.graphs import CPU, CUDA, has_cuda_device, ort

    device = has_cuda_device()
    for name in reversed(ort.get_available_providers()):
        nvidia = name == CUDA or name.startswith(("Tensorrt", "NvTensorRt"))
        if nvidia and not device:
            if name == CUDA:
                yield Finding(
                    "providers", name, "note", "no NVIDIA driver with a device answers; not used"
                )
            continue
        if name == CUDA:
            yield from _cuda_libraries(ort)
        if nvidia and name != CUDA:
            continue  # An engine is built for minutes before it runs; it is used only on request.
        yield _try_provider(ort, name, by_default=name in (CPU, CUDA))


def _try_provider(ort: Any, name: str, *, by_default: bool) -> Finding:
    """Run a graph on a provider, and look where it really ran."""
    import numpy as np

    options = ort.SessionOptions()
    options.log_severity_level = 4
    matrix = np.array([[1, 2], [3, 4]], np.float32)
    advice = "install stembridge[cuda]" if name.startswith("CUDA") else "ask for --provider cpu"
    try:
        session = ort.InferenceSession(_TINY_GRAPH, options, providers=[name])
        used = session.get_providers()
        (product,) = session.run(None, {"x": matrix})
    # ONNX Runtime raises whatever its libraries do.
    except Exception as error:
        return Finding("providers", name, "bad", f"runs no graph ({reason_of(error)})", advice)
    if used[0] != name:
        found = f"its libraries cannot be loaded; ONNX Runtime takes {used[0]} instead"
        return Finding("providers", name, "bad", found, advice)
    if not np.allclose(product, matrix @ matrix):
        return Finding("providers", name, "bad", "computes wrongly", "update its driver")
    return Finding(
        "providers", name, "good", "ran a graph" + ("" if by_default else "; used on request only")
    )


def _cuda_libraries(ort: Any) -> Iterator[Finding]:
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()
    for what, names in _CUDA_LIBRARIES.items():
        if any(_loads(name) for name in names):
            yield Finding("providers", what, "good", "can be loaded")
        else:
            yield Finding(
                "providers",
                what,
                "bad",
                f"none of {', '.join(names)} can be loaded",
                "pip install 'stembridge[cuda]'",
            )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _sidecar() -> Iterator[Finding]:
    try:
        place = runtime_directory()
    except StembridgeError as error:
        yield Finding("sidecar", "folder", "bad", str(error), "do what it says, and try again")
        return
    yield Finding("sidecar", "folder", "good", f"{place}, for you alone")
    begun = time.perf_counter()
    try:
        status = ask(find_address(place, ipc=has_ipc()), GetStatus(), Status)
    except StembridgeError as error:
        yield from _silent_sidecar(place, error)
        return
    answer_s = time.perf_counter() - begun
    yield Finding(
        "sidecar",
        "answer",
        "note" if answer_s > _SLOW_ANSWER_S else "good",
        f"after {1000 * answer_s:.0f} ms; {status.server}, pid {status.pid}, up "
        f"{status.uptime_s:.0f} s, {status.running} running, {status.queued} queued",
        "the machine is very busy" if answer_s > _SLOW_ANSWER_S else "",
    )
    own = versions().get("stembridge", "")
    if own and own not in status.server:
        yield Finding(
            "sidecar",
            "version",
            "bad",
            f"it is {status.server}, this program is {own}",
            "stembridge stop; the next job starts the new one",
        )
    for problem in status.problems:
        yield Finding("sidecar", "problem", "bad", problem, "stembridge logs tells more")


def _silent_sidecar(place: Path, error: StembridgeError) -> Iterator[Finding]:
    pids = [
        process.pid
        for process in psutil.process_iter()
        if "bridge.sidecar" in (words := _words(process)) and str(place) in words
    ]
    if pids:
        listed = ", ".join(map(str, pids))
        yield Finding(
            "sidecar",
            "answer",
            "bad",
            f"process {listed} runs but does not answer ({reason_of(error)})",
            f"end it: kill {listed}; the next job starts another",
        )
        return
    yield Finding("sidecar", "answer", "good", "none runs; the next job starts it")
    starting = place / "start.lock"
    try:
        if starting.exists():
            with FileLock(starting, timeout=0, mode=0o600):
                pass
    except Timeout:
        yield Finding(
            "sidecar",
            "lock",
            "note",
            "another program is starting it right now",
            "if it still says so in a minute, end the programs that use stembridge",
        )
    stale = [name for name in ("control.sock", "jobs.sock") if (place / name).exists()]
    if stale:
        yield Finding(
            "sidecar",
            "sockets",
            "good",
            f"{' and '.join(stale)} are left of an earlier one, and will be replaced",
        )
    for name in ("not-started.txt", "ended.txt"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            reason = " ".join((place / name).read_text("utf-8").split())
            yield Finding("sidecar", "last end", "bad", reason, "stembridge logs tells more")


def _words(process: psutil.Process) -> list[str]:
    try:
        return [str(word) for word in process.cmdline()]
    except psutil.Error:
        return []


def _disk() -> Iterator[Finding]:
    cache = cache_directory()
    size = sum(path.stat().st_size for path in _files(cache))
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    writable = os.access(nearest, os.W_OK | os.X_OK)
    yield Finding(
        "disk",
        "cache",
        "good" if writable else "bad",
        f"{cache}: {size / 1e6:.0f} MB" + ("" if writable else "; cannot be written"),
        "" if writable else f"give yourself the right to write to {nearest}",
    )
    low = free < _LEAST_FREE_BYTES
    yield Finding(
        "disk",
        "room",
        "bad" if low else "good",
        f"{free / 1e9:.1f} GB free at {nearest}",
        "make room, or set STEMBRIDGE_CACHE_DIR to another disk" if low else "",
    )


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _bundles(*, measure: bool, told: Callable[[str], None]) -> Iterator[Finding]:
    for name, directory in list_bundles().items():
        try:
            manifest = load_manifest(directory)
            verify_files(directory, manifest)
        except StembridgeError as error:
            yield Finding("bundles", name, "bad", str(error), "fetch or export it again")
            continue
        yield Finding("bundles", name, "good", f"{len(manifest.files)} files have their checksums")
        needed, memory = song_memory_bytes(manifest), psutil.virtual_memory()
        found = f"a 3-minute song needs about {needed / 1e9:.1f} GB"
        if needed > memory.total:
            found += f", the machine has {memory.total / 1e9:.1f} GB"
            advice = "separate shorter parts, or use a smaller bundle"
            yield Finding("bundles", f"{name}: memory", "bad", found, advice)
            continue
        tight = needed > memory.available
        yield Finding(
            "bundles",
            f"{name}: memory",
            "note" if tight else "good",
            f"{found}; {memory.available / 1e9:.1f} GB are free",
            "close other programs before long songs" if tight else "",
        )
        cost = remembered_cost(manifest)
        if cost is None and measure:
            told(f"measuring how long {name} takes...")
            try:
                cost = measure_cost(directory)
            except StembridgeError as error:
                yield Finding("bundles", f"{name}: time", "bad", str(error), "see providers above")
                continue
        if cost is not None:
            yield Finding("bundles", f"{name}: time", "good", time_told(cost))


def _scripts() -> Iterator[Finding]:
    seen = False
    for daw, path, missing in installed_scripts():
        seen = True
        yield Finding(
            "scripts",
            daw,
            "bad" if missing else "good",
            f"{path}" + (f" starts {missing}, which is not there any more" if missing else ""),
            f"stembridge daw install {daw}" if missing else "",
        )
    if not seen:
        yield Finding(
            "scripts",
            "DAWs",
            "note",
            "none installed",
            "if you use REAPER or Ardour: stembridge daw install reaper|ardour",
        )


def _jack() -> Iterator[Finding]:
    if not importlib.util.find_spec("jack"):
        advice = "for stembridge live: pip install 'stembridge[live]'"
        yield Finding("jack", "client", "note", "JACK-Client is not installed", advice)
        return
    try:
        import jack
    except OSError as error:
        yield Finding(
            "jack",
            "library",
            "note",
            f"JACK's library is missing ({reason_of(error)})",
            "for stembridge live: install libjack, or pipewire-jack",
        )
        return
    try:
        with _quiet_jack(jack):
            client = jack.Client("stembridge doctor", no_start_server=True)
        rate, size = client.samplerate, client.blocksize
        client.close()
    except jack.JackError:
        yield Finding(
            "jack",
            "server",
            "note",
            "no JACK server answers",
            "for stembridge live: start JACK, or run it under pw-jack",
        )
        return
    yield Finding("jack", "server", "good", f"answers: {rate} Hz, blocks of {size}")


@contextlib.contextmanager
def _quiet_jack(jack: Any) -> Iterator[None]:
    """Keep JACK's library from writing to the terminal what is said in a finding anyway."""
    jack.set_error_function(lambda _: None)
    jack.set_info_function(lambda _: None)
    try:
        yield
    finally:
        jack.set_error_function()
        jack.set_info_function()


# -- for a report ----------------------------------------------------------------------------

_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_PATH: Final = re.compile(r"(?:[A-Za-z]:[\\/]|~?/)\S+")
_KEPT_TEXTS: Final = frozenset(
    {"time", "level", "event", "code", "state", "provider", "stage", "reason", "error"}
)
_FRAME: Final = re.compile(r'File ".*?([^/\\"]+)", line (\d+), in (\S+)')


def write_report(path: Path, findings: Iterable[Finding]) -> None:
    """Pack findings, versions and logs into a file that may be shown to anybody.

    Neither audio nor prompts nor names of files, users or machines are in it: of the log only
    times, events, numbers and places in the program are kept, and of the findings no path.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    told = [
        {
            **msgspec.to_builtins(finding),
            # What somebody calls a bundle may say more than its checksum.
            "name": "bundle" if finding.area == "bundles" else finding.name,
            "found": _bare(finding.found),
            "advice": _bare(finding.advice),
        }
        for finding in findings
    ]
    partial = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("findings.json", json.dumps(told, indent=2))
            archive.writestr("versions.json", json.dumps(versions(), indent=2))
            with contextlib.suppress(StembridgeError):
                log = log_file(runtime_directory())
                for file in sorted(log.parent.glob(f"{log.name}*")):
                    lines = file.read_text("utf-8", "replace").splitlines()
                    kept = (json.dumps(entry) for line in lines if (entry := _bare_entry(line)))
                    archive.writestr(file.name, "".join(f"{line}\n" for line in kept))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _bare(text: str) -> str:
    """Leave out what is quoted, folders, and what user and machine are called."""
    text = _QUOTED.sub("(name)", text)
    # Known folders first: in an unknown one a space ends what is taken for a path.
    known = {str(Path.home()), str(cache_directory()), sys.prefix, os.getcwd()}
    with contextlib.suppress(StembridgeError):
        known.add(str(runtime_directory()))
    for folder in sorted(known, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(folder, "/(folder)")
    text = _PATH.sub("(path)", text)
    for name in {Path.home().name, platform.node()}:
        if name:
            text = re.sub(rf"\b{re.escape(name)}\b", "(name)", text, flags=re.IGNORECASE)
    return text


def _bare_entry(line: str) -> dict[str, object]:
    """Return what may be shown of a line of the log; nothing of one that we did not write."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(entry, dict):
        return {}
    kept: dict[str, object] = {}
    for name, value in entry.items():
        if name == "traceback":
            kept[name] = [" ".join(frame) for frame in _FRAME.findall(str(value))]
        elif isinstance(value, bool | int | float):
            kept[name] = value
        elif name in _KEPT_TEXTS:
            kept[name] = _bare(str(value))
    return kept


EXIT_BAD = 2

_MARKS = {"good": "ok  ", "note": "note", "bad": "BAD "}
_COLOURS = {"good": "green", "note": "yellow", "bad": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("doctor", help="Look for what can go wrong, and say what to do.")(doctor)


def doctor(
    *,
    as_json: JsonOption = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zip",
            help="Also pack findings, versions and logs, without audio, prompts or names.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Measure how long a song takes with bundles not measured before."),
    ] = True,
) -> None:
    """Look at programs, providers, sidecar, disk, bundles, DAW scripts and JACK.

    The exit code is 2 if something does not work.
    """
    if bundle is not None and bundle.exists():
        raise InputError(f"{bundle} exists; choose another name")
    findings: list[Finding] = []
    for finding in examine(measure=measure, told=note):
        if not as_json:
            if not findings or findings[-1].area != finding.area:
                say(finding.area)
            _tell(finding)
        findings.append(finding)
    if as_json:
        say_json({"versions": versions(), "findings": msgspec.to_builtins(findings)})
    if bundle is not None:
        try:
            write_report(bundle, findings)
        except OSError as error:
            raise InputError(f"{bundle}: cannot be written ({error.strerror or error})") from error
        note(f"{bundle}: findings, versions and logs; look into it before you send it")
    bad = sum(finding.state == "bad" for finding in findings)
    if bad:
        if not as_json:
            say(f"{bad} of {len(findings)} do not work; see what is marked BAD")
        raise typer.Exit(EXIT_BAD)
    if not as_json:
        say("everything that was tried works")


def _tell(finding: Finding) -> None:
    line = f"  {typer.style(_MARKS[finding.state], fg=_COLOURS[finding.state])}"
    typer.echo(line, nl=False)
    say(f"  {finding.name}: {finding.found}")
    if finding.advice:
        say(f"          -> {finding.advice}")
