"""CURVE keys: the user's own pair, and the keys that the user's servers authorise.

Keys are kept in the user's configuration directory, readable by the user alone: ``identity.json``
holds the pair, ``authorized/NAME`` the public key of a client that may connect. Servers keep
looking there, so that authorising and revoking take effect at once. A directory that others could
write to authorises nobody.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import zmq
import zmq.utils.z85
from msgspec import Struct

from bridge.errors import InputError, StembridgeError
from bridge.files import config_directory, private_directory

KEYS_VARIABLE: Final = "STEMBRIDGE_KEYS_DIR"
_GRAIN_NS: Final = 2_000_000_000  # of FAT, the coarsest file system
_Stamp: TypeAlias = tuple[int, ...]
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class KeyPair(Struct, frozen=True):
    """A CURVE key pair in Z85, 40 characters each."""

    public: str
    secret: str


class KeyRing:
    """The keys of this user.

    Parameters
    ----------
    directory : Path or None
        By default the one in the environment variable ``STEMBRIDGE_KEYS_DIR``, or the user's.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is None:
            variable = os.environ.get(KEYS_VARIABLE)
            default = config_directory() / "keys"
            directory = Path(variable) if variable else default
        self._directory = directory
        self._identity = directory / "identity.json"
        self._authorized = directory / "authorized"
        self._known: tuple[_Stamp, frozenset[str]] | None = None

    def create(self) -> KeyPair:
        """Create this user's pair.

        Raises
        ------
        InputError
            If there is one already: replacing it would lock its owner out of servers that trust it.
        """
        public, secret = (key.decode() for key in zmq.curve_keypair())
        self._make_private()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(os.open(self._identity, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(KeyPair(public, secret)))
        except FileExistsError:
            raise InputError(
                f"there is a key already in {self._identity}; remove that file first if whoever "
                "trusts it may be locked out"
            ) from None
        return KeyPair(public, secret)

    def identity(self) -> KeyPair:
        """Return this user's pair.

        Raises
        ------
        InputError
            If there is none, or it cannot be read.
        ServerError
            If others could have written it.
        """
        try:
            if self._directory.exists():
                private_directory(self._directory)
            return msgspec.json.decode(self._identity.read_bytes(), type=KeyPair)
        except FileNotFoundError:
            raise InputError("there is no key yet; make one with: stembridge keys new") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(f"{self._identity}: cannot be read: {error}") from error

    def authorize(self, name: str, public: str) -> None:
        """Authorise a key.

        Raises
        ------
        InputError
            If the name or the key is malformed, or the name belongs to another key.
        """
        path = self._path(name)
        check_key(public)
        if self.authorized().get(name, public) != public:
            raise InputError(f"{name!r} has another key already; revoke it first")
        self._make_private()
        path.write_text(public, encoding="ascii")

    def revoke(self, name: str) -> None:
        """Revoke a key; its holder is disconnected at once.

        Raises
        ------
        InputError
            If there is no authorised key of that name.
        """
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise InputError(f"no key named {name!r}; see: stembridge keys list") from None

    def authorized(self) -> dict[str, str]:
        """Return the authorised public keys by name.

        Raises
        ------
        ServerError
            If others could have written them.
        InputError
            If they cannot be read.
        """
        found: dict[str, str] = {}
        try:
            if not self._authorized.is_dir():
                return found
            for directory in (self._directory, self._authorized):
                private_directory(directory)
            for path in sorted(self._authorized.iterdir()):
                found[path.name] = path.read_bytes().decode("ascii", "replace").strip()
        except FileNotFoundError:
            return self.authorized()  # one was revoked in the meantime
        except OSError as error:
            raise InputError(f"{self._authorized}: cannot be read: {error}") from error
        return found

    def allows(self, public: str) -> bool:
        """Say whether a key is authorised; False if that cannot be determined."""
        try:
            stamp = self._stamp()
            known = self._known
            if known is None or known[0] != stamp:
                # A change within the resolution of the file system's clock would go unnoticed.
                fresh = time.time_ns() - max(stamp) > _GRAIN_NS
                keys = frozenset(self.authorized().values())
                self._known = known = (stamp, keys)
                if not fresh:
                    self._known = None
            return public in known[1]
        except (OSError, StembridgeError):
            return False

    def _stamp(self) -> _Stamp:
        """Return a value that changes with the directories; needs no file descriptor."""
        places = (self._directory, self._authorized)
        return tuple(value for one in places for value in _times(one.stat()))

    def _make_private(self) -> None:
        private_directory(self._directory)
        private_directory(self._authorized)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r}: expected a name of letters, digits, dots and dashes")
        return self._authorized / name


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def check_key(public: str) -> None:
    """Check that a text is a public key.

    Raises
    ------
    InputError
        If it is not 40 characters of Z85.
    """
    try:
        valid = len(public) == 40 and len(zmq.utils.z85.decode(public.encode("ascii"))) == 32
    except (ValueError, KeyError):
        valid = False
    if not valid:
        raise InputError(f"{public!r}: expected a public key of 40 characters, as keys new shows")
