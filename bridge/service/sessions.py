"""Who is connected: sessions, kept alive by heartbeats, ended by silence."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from bridge.errors import InputError

Peer = tuple[int, bytes]

MAX_SESSIONS: Final = 256


@dataclass
class Session:
    """One client.

    Attributes
    ----------
    id : str
        Secret between the client and the server.
    owner : str
        Whom fairness and limits count: the public key, or locally the session itself.
    binding : int
        Index of the server's pair of sockets that it came through.
    local : bool
        Whether it came through the private socket of this user.
    seen : float
        Monotonic time of its last sign of life, in seconds.
    peer : Peer or None
        Where it listens on the job channel.
    """

    id: str
    owner: str
    binding: int
    local: bool
    seen: float = field(default_factory=time.monotonic)
    peer: Peer | None = None


class Sessions:
    """All sessions of a server; safe to use from several threads."""

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._by_peer: dict[Peer, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, owner: str, binding: int, local: bool, resume: str | None) -> Session:
        """Take up a session again if it is known and the owner's, else begin one.

        Raises
        ------
        InputError
            If there are too many.
        """
        with self._lock:
            session = self._sessions.get(resume or "")
            if session is not None and session.binding == binding and owner in ("", session.owner):
                session.seen = time.monotonic()
                return session
            if len(self._sessions) >= MAX_SESSIONS:
                raise InputError(
                    f"the server already has {MAX_SESSIONS} clients; close one, or try later"
                )
            name = secrets.token_hex(16)
            session = Session(name, owner or name, binding, local)
            self._sessions[name] = session
            return session

    def heard(self, session_id: str) -> bool:
        """Note a sign of life; False if there is no such session."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                session.seen = time.monotonic()
            return session is not None

    def get(self, session_id: str) -> Session | None:
        """Return a session by its id."""
        with self._lock:
            return self._sessions.get(session_id)

    def bind(self, session: Session, peer: Peer) -> None:
        """Note where a session listens on the job channel."""
        with self._lock:
            if session.peer is not None:
                self._by_peer.pop(session.peer, None)
            session.peer = peer
            self._by_peer[peer] = session

    def at(self, peer: Peer) -> Session | None:
        """Return the session that listens at a peer."""
        with self._lock:
            return self._by_peer.get(peer)

    def close(self, session_id: str) -> Session | None:
        """Remove a session and return it."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
            if session is not None and session.peer is not None:
                self._by_peer.pop(session.peer, None)
            return session

    def of(self, owner: str) -> list[str]:
        """List the sessions of an owner."""
        with self._lock:
            return [one.id for one in self._sessions.values() if one.owner == owner]

    def gone(self) -> list[str]:
        """List the sessions that have been silent for longer than the grace time."""
        limit = time.monotonic() - self.grace_s
        with self._lock:
            return [session.id for session in self._sessions.values() if session.seen < limit]
