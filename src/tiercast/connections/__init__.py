"""Connections to Redis for the remote tier and the log: for threads, event loops and forked children.

What is used from above is named here; nothing in it imports redis before the first connection.
"""

from __future__ import annotations

from .base import Command, Script, Unavailable, error_code
from .breaker import Breaker
from .connections import Commands, RedisConnections
from .listener import Listener
from .resp import Template, encode
from .server import ServerInfo
from .session import Session

__all__ = [
    "Breaker",
    "Command",
    "Commands",
    "Listener",
    "RedisConnections",
    "Script",
    "ServerInfo",
    "Session",
    "Template",
    "Unavailable",
    "encode",
    "error_code",
]
