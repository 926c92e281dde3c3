"""Model bundles on disk: finding one, reading its manifest, and verifying its files.

Paths never travel. A client names a model; a bundle in some other directory is registered by a note
of its path, named after the checksum of its manifest, in the user's private directory, and the
request carries that checksum. Only those who can write to that directory can register, and a note
that does not lead to a manifest with its checksum is ignored.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from bridge.bundles.manifest import (
    FILE_NAME,
    FORMAT,
    NAMED_STEMS,
    VISION_ENCODER,
    BundleManifest,
    FileInfo,
    Manifest,
    NamedStemsManifest,
    faults,
)
from bridge.errors import ModelError
from bridge.files import (
    check_regular,
    data_directory,
    expanded,
    open_regular,
    read_bounded,
    write_whole,
)
from bridge.wire.messages import ModelRef

_MOST_BYTES: Final = 16 << 20
_SYSTEM_FILES: Final = frozenset({"thumbs.db", "desktop.ini"})

_verified: dict[tuple[str, int, int, int], FileInfo] = {}
_verified_lock = threading.Lock()


def bundle_directories() -> tuple[Path, ...]:
    """Directories searched for bundles by name: the package's own, then the user's."""
    return (
        Path(__file__).parents[1] / "models",
        data_directory() / "models",
    )


def list_bundles() -> dict[str, Path]:
    """Find every bundle that can be asked for by name; the package's own come first."""
    found: dict[str, Path] = {}
    for directory in bundle_directories():
        for path in sorted(directory.glob(f"*/{FILE_NAME}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def find_bundle(model: str | os.PathLike[str]) -> Path:
    """Find a bundle by name, or by the path of a directory with a manifest.

    A name always means an installed bundle, whatever is in the current folder: a string is a path
    only if it contains a separator, such as ``./mini``. Two of them joined by a plus sign are a
    pair: prompts that the first, which has a closed list of stems, does not know go to the second.

    Returns
    -------
    Path
        Of the bundle; of a pair the two paths joined by a plus sign, see `paths_of_pair`.

    Raises
    ------
    ModelError
        If there is none.
    """
    try:
        return _find_one(model)
    except ModelError:
        text = os.fspath(model)
        for first, second in _splits(text):
            try:
                found = [
                    _find_one(part if isinstance(model, str) else Path(part))
                    for part in (first, second)
                ]
            except ModelError:
                continue
            return Path("+".join(map(os.fspath, found)))
        raise


def paths_of_pair(path: Path) -> tuple[Path, Path] | None:
    """Return the two bundles of a pair that `find_bundle` found; None for a single one."""
    if (path / FILE_NAME).is_file():
        return None
    for first, second in _splits(os.fspath(path)):
        if (Path(first) / FILE_NAME).is_file() and (Path(second) / FILE_NAME).is_file():
            return Path(first), Path(second)
    return None


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """Yield what stands before and after each plus sign."""
    for place, mark in enumerate(text):
        if mark == "+" and 0 < place < len(text) - 1:
            yield text[:place], text[place + 1 :]


def _find_one(model: str | os.PathLike[str]) -> Path:
    known = list_bundles()
    if isinstance(model, str) and model in known:
        return known[model]
    path = expanded(model)
    is_bundle = (path / FILE_NAME).is_file()
    if is_bundle and (not isinstance(model, str) or _looks_like_a_path(model)):
        return path.resolve()
    names = ", ".join(known) or "none"
    hint = f"; for the folder of that name write {os.curdir}{os.sep}{path}" if is_bundle else ""
    raise ModelError(
        f"unknown model {os.fspath(model)!r}: neither a directory with {FILE_NAME} "
        f"nor one of the installed models ({names}){hint}"
    )


def _looks_like_a_path(model: str) -> bool:
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return model in (os.curdir, os.pardir) or any(mark in model for mark in separators)


class _Header(msgspec.Struct):
    format: int
    family: str = ""


def load_manifest(directory: Path) -> Manifest | NamedStemsManifest:
    """Read and validate the manifest of a bundle; its files are not opened.

    That of a pair is the second's, with the names, sounds, licences and origins of both.

    Raises
    ------
    ModelError
        If there is no manifest, it cannot be read, is of another format version, has unknown
        or missing fields, or contradicts itself; if the first of a pair takes any words.
    """
    pair = paths_of_pair(directory)
    if pair is not None:
        return _pair_manifest(*map(load_manifest, pair))
    path = directory / FILE_NAME
    try:
        raw = read_bounded(path, _MOST_BYTES)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot read the manifest ({error.strerror or error}); "
            "give the directory of a model bundle"
        ) from error
    try:
        header = msgspec.json.decode(raw, type=_Header)
        version = header.format
        if version != FORMAT:
            raise ModelError(
                f"{path}: format {version}, but this version reads format {FORMAT}; "
                + ("update stembridge" if version > FORMAT else "export the model again")
            )
        named = header.family == NAMED_STEMS
        manifest: Manifest | NamedStemsManifest = (
            msgspec.json.decode(raw, type=NamedStemsManifest)
            if named
            else msgspec.json.decode(raw, type=Manifest)
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise ModelError(f"{path}: {error}; export or fetch the model again") from error
    for fault in faults(manifest):
        raise ModelError(f"{path}: {fault}; export or fetch the model again")
    return manifest


def _pair_manifest(
    first: Manifest | NamedStemsManifest, second: Manifest | NamedStemsManifest
) -> Manifest | NamedStemsManifest:
    if not isinstance(first, NamedStemsManifest):
        raise ModelError(
            f"{first.name}+{second.name}: the first of two models has to be one with a closed list "
            f"of stems, which {first.name!r} is not; give them the other way round"
        )
    both = (first, second)
    return msgspec.structs.replace(
        second,
        name="+".join(each.name for each in both),
        after=first.sha256,
        sounds=(*first.sounds, *second.sounds),
        licence="; ".join(dict.fromkeys(each.licence for each in both)),
        provenance="; then ".join(each.provenance for each in both),
    )


def load_prompted(directory: Path) -> Manifest:
    """Read the manifest of a bundle that takes prompts in any words.

    Raises
    ------
    ModelError
        As `load_manifest` does, and if the bundle has a closed list of stems.
    """
    manifest = load_manifest(directory)
    if isinstance(manifest, NamedStemsManifest):
        raise ModelError(
            f"{directory}: expected a model of the family sam-audio, got one of {NAMED_STEMS}"
        )
    return manifest


def write_manifest(manifest: Manifest | NamedStemsManifest, directory: Path) -> Path:
    """Validate a manifest and write it into a bundle's directory in one step.

    Returns
    -------
    Path
        Of the file written.

    Raises
    ------
    ModelError
        If the manifest contradicts itself; nothing is written then.
    """
    path = directory / FILE_NAME
    for fault in faults(manifest):
        raise ModelError(f"{path} not written: {fault}")
    text = msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2)
    write_whole(path, text + b"\n")
    return path


def describe_file(path: Path) -> FileInfo:
    """Compute the checksum and the size of a file."""
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileInfo(digest.hexdigest(), file.tell())


def verify_files(directory: Path, manifest: BundleManifest) -> None:
    """Compare a bundle with its manifest: every file that it lists, and no others.

    A file is hashed once per process, as long as its size and time of change stay the same.

    Raises
    ------
    ModelError
        If a file is missing, cannot be read, or has other contents; if there are files that the
        manifest does not list, or a graph reads weights from one.
    """
    for path in paths_of_pair(directory) or ():
        verify_files(path, load_manifest(path))
    if manifest.after:
        return
    for name, expected in manifest.files.items():
        path = directory / name
        try:
            # The size first: the named file may be endless.
            size = path.stat().st_size
            check_regular(path)
            found = _describe_once(path) if size == expected.size_bytes else None
        except OSError as error:
            raise ModelError(
                f"{path}: cannot be read ({error.strerror or error}); fetch or export "
                f"the model {manifest.name!r} again"
            ) from error
        if found != expected:
            digest = f"sha256 {found.sha256[:12]}..., " if found is not None else ""
            raise ModelError(
                f"{path}: {digest}{size} bytes, but the manifest says sha256 "
                f"{expected.sha256[:12]}..., {expected.size_bytes} bytes: the file "
                f"is damaged; fetch or export the model {manifest.name!r} again"
            )
    _check_unlisted(directory, manifest)
    _check_external_data(directory, manifest)


def _check_unlisted(directory: Path, manifest: BundleManifest) -> None:
    for folder, folders, files in os.walk(directory):
        # Hidden ones belong to programs that manage folders: .git, .cache, .DS_Store.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder, name)
            listed = path.relative_to(directory).as_posix()
            if listed in manifest.files or listed == FILE_NAME:
                continue
            if not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
                raise ModelError(
                    f"{path}: the manifest of {manifest.name!r} does not list this file, so "
                    "nothing vouches for it; move it elsewhere, or fetch or export the model again"
                )


def _check_external_data(directory: Path, manifest: BundleManifest) -> None:
    for graph in manifest.graphs.values():
        path = directory / graph.file
        try:
            places = external_files(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path}: not an ONNX graph ({error}); fetch or export "
                f"the model {manifest.name!r} again"
            ) from error
        for place in places:
            # Relative to the graph; no manifest lists a path that leads up.
            if (PurePosixPath(graph.file).parent / place).as_posix() not in manifest.files:
                raise ModelError(
                    f"{path}: reads weights from {place!r}, which the manifest does not list; "
                    f"fetch or export the model {manifest.name!r} again"
                )


def _describe_once(path: Path) -> FileInfo:
    status = path.stat()
    # Whoever copies a file over another can keep its time of change, but not that of the entry.
    key = (str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    with _verified_lock:
        if key not in _verified:
            _verified[key] = describe_file(path)
        return _verified[key]


class ModelIndex:
    """The models that requests may name.

    Parameters
    ----------
    notes : Path
        The directory with the notes of registered bundles.
    directories : iterable of Path
        Bundles given to this server by path; they take precedence over installed ones.
    """

    def __init__(self, notes: Path, directories: Iterable[Path] = ()) -> None:
        self._notes = notes
        self._given = {load_manifest(path).name: path.resolve() for path in directories}

    def names(self) -> tuple[str, ...]:
        """Return the names of the models that can be asked for without a checksum."""
        return tuple(sorted({*self._given, *list_bundles()}))

    def find(self, reference: ModelRef) -> tuple[Path, BundleManifest]:
        """Find a bundle and read its manifest.

        Raises
        ------
        ModelError
            If there is no such model, or not with that checksum.
        """
        path = self._path(reference.name)
        if path is not None:
            manifest = load_manifest(path)
            if reference.sha256 in (None, manifest.sha256):
                return path, manifest
        if reference.sha256 is not None:
            noted = self._registered(reference.sha256)
            if noted is not None:
                return noted
            raise ModelError(
                f"the server has no model {reference.name!r} with the checksum "
                f"{reference.sha256[:12]}...; start it with --model DIRECTORY"
            )
        raise ModelError(
            f"unknown model {reference.name!r}; the server has {', '.join(self.names()) or 'none'}"
        )

    def _path(self, name: str) -> Path | None:
        """Return where the bundle of a name is, or the pair of two names with a plus between."""
        known = {**list_bundles(), **self._given}
        if name in known or "+" not in name:
            return known.get(name)
        pair = [known.get(part) for part in name.split("+", 1)]
        return None if None in pair else Path("+".join(map(os.fspath, filter(None, pair))))

    def _registered(self, sha256: str) -> tuple[Path, BundleManifest] | None:
        try:
            path = Path(os.fsdecode((self._notes / sha256).read_bytes()))
            manifest = load_manifest(path)
        except (OSError, ValueError, ModelError):
            return None
        return (path, manifest) if manifest.sha256 == sha256 else None


def register(notes: Path, directory: Path) -> ModelRef:
    """Register a bundle with this user's servers, and return the reference to ask for it by.

    Raises
    ------
    ModelError
        If the directory holds no readable manifest.
    """
    manifest = load_manifest(directory)
    notes.mkdir(parents=True, exist_ok=True, mode=0o700)
    note = notes / manifest.sha256
    write_whole(note, os.fsencode(directory.resolve()))
    return ModelRef(manifest.name, manifest.sha256)


# For each message, the fields that can lead to a tensor, and the message in each.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING, _ENTRY = range(9)
_FIELDS: Final[dict[int, dict[int, int]]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {13: _ENTRY},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _ENTRY: {},
}
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def external_files(path: Path) -> set[str]:
    """Return the locations of a graph's external weights as written in it.

    Parameters
    ----------
    path : Path
        An ONNX file.

    Raises
    ------
    ValueError
        It is not a protobuf.
    OSError
        It cannot be read.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return set(_locations(data))


def _locations(data: mmap.mmap) -> Iterator[str]:
    open_messages = [(_MODEL, 0, len(data))]
    while open_messages:
        kind, place, end = open_messages.pop()
        inside = _FIELDS[kind]
        entry: dict[int, bytes] = {}
        while place < end:
            key, place = _varint(data, place, end)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                _, place = _varint(data, place, end)
                continue
            if wire == _BYTES:
                length, place = _varint(data, place, end)
            elif wire in (_FIXED_64, _FIXED_32):
                length = 8 if wire == _FIXED_64 else 4
            else:
                raise ValueError(f"wire type {wire} at byte {place}")
            if number == 0 or place + length > end:
                raise ValueError(f"a field at byte {place} leads out of its message")
            if wire == _BYTES and number in inside:
                open_messages.append((inside[number], place, place + length))
            elif kind == _ENTRY and number in (1, 2):
                entry[number] = data[place : place + length]
            place += length
        if entry.get(1) == b"location":
            yield entry.get(2, b"").decode("utf-8", "surrogateescape")


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"a number at byte {place} does not end")


def frame_side(model: str | os.PathLike[str]) -> int | None:
    """Return the width and height of the frames that a model looks at; None if it sees nothing.

    Raises
    ------
    ModelError
        There is no such model.
    """
    graph = load_manifest(find_bundle(model)).graphs.get(VISION_ENCODER)
    return None if graph is None else int(graph.inputs[0].dims[-1])
