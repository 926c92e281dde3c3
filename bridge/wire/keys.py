"""CURVE keys: this user's own pair, and whom this user's servers let in.

Keys lie in the user's configuration directory, readable by the user alone: ``identity.json``
holds the pair, ``authorized/NAME`` the public key of somebody who may connect. Servers look
there at every handshake, so that authorising and revoking take effect at once.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

import msgspec
import platformdirs
import zmq
import zmq.utils.z85
from msgspec import Struct

from bridge.errors import InputError

KEYS_VARIABLE: Final = "STEMBRIDGE_KEYS_DIR"
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
        By default that of the environment variable ``STEMBRIDGE_KEYS_DIR``, or the user's.
    """

    def __init__(self, directory: Path | None = None) -> None:
        if directory is None:
            variable = os.environ.get(KEYS_VARIABLE)
            default = Path(platformdirs.user_config_dir("stembridge")) / "keys"
            directory = Path(variable) if variable else default
        self._identity = directory / "identity.json"
        self._authorized = directory / "authorized"

    def create(self) -> KeyPair:
        """Make this user's pair.

        Raises
        ------
        InputError
            If there is one: replacing it would lock out whoever trusts it.
        """
        public, secret = (key.decode() for key in zmq.curve_keypair())
        self._authorized.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        """
        try:
            return msgspec.json.decode(self._identity.read_bytes(), type=KeyPair)
        except FileNotFoundError:
            raise InputError("there is no key yet; make one with: stembridge keys new") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise InputError(f"{self._identity}: cannot be read: {error}") from error

    def authorize(self, name: str, public: str) -> None:
        """Let the holder of a key in.

        Raises
        ------
        InputError
            If the name or the key is none, or the name is taken by another key.
        """
        path = self._path(name)
        check_key(public)
        if self.authorized().get(name, public) != public:
            raise InputError(f"{name!r} has another key already; revoke it first")
        self._authorized.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(public, encoding="ascii")

    def revoke(self, name: str) -> None:
        """Let the holder of a key in no more.

        Raises
        ------
        InputError
            If nobody of that name was authorised.
        """
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise InputError(f"no key named {name!r}; see: stembridge keys list") from None

    def authorized(self) -> dict[str, str]:
        """Return the public keys that are let in, by name."""
        found: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._authorized.iterdir()):
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    found[path.name] = path.read_text(encoding="ascii").strip()
        return found

    def allows(self, public: str) -> bool:
        """Say whether a key is let in."""
        return public in self.authorized().values()

    def callback(self, domain: str, key: bytes) -> bool:
        """Answer pyzmq's authenticator."""
        del domain
        return self.allows(key.decode("ascii", "replace"))

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r}: expected a name of letters, digits, dots and dashes")
        return self._authorized / name


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
