"""Sessions: clients, kept alive by heartbeats and ended by silence."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from bridge.errors import InputError
from bridge.service.relay import Connection
from bridge.service.sockets import Binding

Peer = tuple[int, bytes]

# Enough for all programs of a studio; half are reserved for the user of this machine.
MAX_SESSIONS: Final = 256
# The share of one key, so that no client takes all: some machines with a few programs each.
SESSIONS_OF_KEY: Final = 32
# A client has one session per connection; the rest allows for some that were not closed.
SESSIONS_OF_CONNECTION: Final = 8
# An idle session makes room for another after this long without a heartbeat: four are missing.
_QUIET_S: Final = 2.0
# How many bytes may wait to be read by a client: two windows of chunks.
UNREAD_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class Caller:
    """The sender of a message on the control channel.

    Attributes
    ----------
    binding : Binding
        The binding it came through.
    user : str
        Public key, or "" for the user of this machine.
    connection : Connection or None
        None if it is already closed.
    """

    binding: Binding
    user: str
    connection: Connection | None

    @property
    def local(self) -> bool:
        """Whether it is the user of this machine."""
        return self.binding.local


@dataclass(eq=False)
class Session:
    """One client.

    Attributes
    ----------
    id : str
        Secret between the client and the server.
    user : str
        Public key, or "" for the user of this machine.
    binding : int
        Index of the server's pair of sockets that it came through.
    local : bool
        Whether it came through the private socket of this user.
    control : Connection or None
        The one of its last `Hello`.
    seen : float
        Monotonic time of its last sign of life, in seconds.
    peer : Peer or None
        Where it listens on the job channel.
    connection : Connection or None
        The one it does so over.
    reading_bytes : int
        Bytes being read from the disk for it.
    newest : str
        Key of the last job that it was told is done.
    """

    id: str
    user: str
    binding: int
    local: bool
    control: Connection | None = None
    seen: float = field(default_factory=time.monotonic)
    peer: Peer | None = None
    connection: Connection | None = None
    reading_bytes: int = 0
    newest: str = ""

    @property
    def owner(self) -> str:
        """The unit of fairness and limits: the public key, or locally the session itself."""
        return self.id if self.local else self.user

    @property
    def has_room(self) -> bool:
        """Whether it reads fast enough to be sent more."""
        unread = 0 if self.connection is None else self.connection.unread_bytes
        return unread + self.reading_bytes < UNREAD_BYTES


class Sessions:
    """All sessions of a server; safe to use from several threads."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._by_peer: dict[Peer, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self, caller: Caller, resume: str | None, busy: Collection[str] = ()
    ) -> tuple[Session, Session | None]:
        """Resume a session if it is known and the caller's, else begin one.

        Parameters
        ----------
        caller : Caller
        resume : str or None
            Id of the session to resume.
        busy : collection of str
            Ids of sessions with requests, which are never closed to make room.

        Returns
        -------
        session : Session
        closed : Session or None
            The session that was closed to make room, if any.

        Raises
        ------
        InputError
            If there are too many.
        """
        binding = caller.binding
        with self._lock:
            session = self._sessions.get(resume or "")
            if session is not None and (session.binding, session.user) == (
                binding.index,
                caller.user,
            ):
                session.seen = time.monotonic()
                session.control = caller.connection
                return session, None
            closed = self._make_room(caller, busy)
            name = secrets.token_hex(16)
            session = Session(name, caller.user, binding.index, binding.local, caller.connection)
            self._sessions[name] = session
            return session, closed

    def _make_room(self, caller: Caller, busy: Collection[str]) -> Session | None:
        sessions = list(self._sessions.values())
        closed = None
        for who, most, peers in (
            (
                "this connection",
                SESSIONS_OF_CONNECTION,
                [one for one in sessions if caller.connection and one.control is caller.connection],
            ),
            (
                "this key",
                SESSIONS_OF_KEY,
                [one for one in sessions if caller.user and one.user == caller.user],
            ),
            (
                "the server",
                MAX_SESSIONS if caller.local else MAX_SESSIONS // 2,
                [one for one in sessions if caller.local or not one.local],
            ),
        ):
            if len(peers) - (closed in peers) < most:
                continue
            quiet_s = time.monotonic() - _QUIET_S
            idle = [one for one in peers if one.seen < quiet_s and one.id not in busy]
            if not idle:
                raise InputError(
                    f"{who} already has {len(peers)} sessions, and may have {most}; close one, or "
                    "try later"
                )
            closed = min(idle, key=lambda one: one.seen)
        if closed is not None:
            self._remove(closed.id)
        return closed

    def touch(self, session_id: str, user: str | None = None) -> bool:
        """Note a sign of life; False if there is no such session, or it is not that user's."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or user not in (None, session.user):
                return False
            session.seen = time.monotonic()
            return True

    def get(self, session_id: str) -> Session | None:
        """Return a session by its id."""
        with self._lock:
            return self._sessions.get(session_id)

    def bind(self, session: Session, peer: Peer, connection: Connection | None) -> None:
        """Note where a session listens on the job channel."""
        with self._lock:
            if session.peer is not None:
                self._by_peer.pop(session.peer, None)
            earlier = self._by_peer.get(peer)
            if earlier is not None:
                earlier.peer = earlier.connection = None
            session.peer, session.connection = peer, connection
            self._by_peer[peer] = session

    def at(self, peer: Peer) -> Session | None:
        """Return the session that listens at a peer."""
        with self._lock:
            return self._by_peer.get(peer)

    def peers(self) -> list[Peer]:
        """List where sessions listen."""
        with self._lock:
            return list(self._by_peer)

    def close(self, session_id: str) -> Session | None:
        """Remove a session and return it."""
        with self._lock:
            return self._remove(session_id)

    def of(self, user: str) -> list[str]:
        """List the sessions of a user."""
        with self._lock:
            return [one.id for one in self._sessions.values() if one.user == user]

    def users(self) -> set[str]:
        """Return the keys of all remote sessions."""
        with self._lock:
            return {one.user for one in self._sessions.values() if not one.local}

    def silent(self) -> list[str]:
        """List the sessions that have been silent for longer than the grace time."""
        limit = time.monotonic() - self.grace_s
        with self._lock:
            return [session.id for session in self._sessions.values() if session.seen < limit]

    def _remove(self, session_id: str) -> Session | None:
        session = self._sessions.pop(session_id, None)
        if session is not None and session.peer is not None:
            self._by_peer.pop(session.peer, None)
        return session
