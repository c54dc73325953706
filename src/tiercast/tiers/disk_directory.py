"""Where a disk tier may live: a directory of this user's own, on this host's own disk."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from ..errors import ConfigError

NETWORK_SYSTEMS = frozenset(
    {
        "9p", "acfs", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "webdav",
    }
)  # fmt: skip
"""File systems whose locks or shared memory do not hold between hosts, as SQLite's log needs them to."""
NETWORK_FUSE = frozenset({"sshfs", "s3fs", "rclone", "gcsfuse", "goofys", "glusterfs", "ceph", "curlftpfs", "smbnetfs"})
MOUNTS = "/proc/self/mounts"


def check_directory(directory: str | os.PathLike[str]) -> None:
    """Refuse a directory that a disk tier must not use. Only looks; one that does not exist yet passes if its parent does.

    Raises:
        ConfigError: it belongs to another user, everybody may write to it, it lies on a network
            file system, or it is no directory. The message says which, and what to do.
    """
    path = Path(os.path.realpath(directory))
    system = file_system(path, MOUNTS)
    kind, _, fuse = system.partition(".")
    if system in NETWORK_SYSTEMS or (kind == "fuse" and fuse in NETWORK_FUSE):
        raise ConfigError(
            f"directory: {str(directory)!r} lies on a network file system ({system}), where locks between hosts do not "
            "hold; name a directory on a local disk, one for each host"
        )
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"directory: {str(directory)!r} cannot be looked at: {exc}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"directory: {str(directory)!r} is a file; name a directory")
    if sys.platform == "win32":
        return
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"directory: {str(directory)!r} belongs to user {found.st_uid}, this process runs as {os.geteuid()}: "
            "what others can write must not be served; name a directory of this user's own"
        )
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(
            f"directory: {str(directory)!r} can be written by everybody (mode {stat.S_IMODE(found.st_mode):o}): "
            "name one below it that does not exist yet, or take the right away (chmod o-w)"
        )


def make_directory(directory: str | os.PathLike[str]) -> None:
    """Make the directory, readable by this user alone, if it is not there; then check it.

    Raises:
        ConfigError: see `check_directory`.
        OSError: it cannot be made.
    """
    check_directory(directory)
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    check_directory(directory)


def file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that a path is on ("ext4", "nfs4", "fuse.sshfs"); "" where that is not known."""
    try:
        with Path(mounts).open(encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.split(" ") for line in lines]
    except OSError:  # not Linux
        return ""
    best, system = -1, ""
    for _device, mount, kind, *_ in fields:
        point = Path(_unescape(mount))
        # Of two mounts on one point the later one is seen.
        if len(point.parts) >= best and path.is_relative_to(point):
            best, system = len(point.parts), kind
    return system


def _unescape(text: str) -> str:
    """Undo the octal escapes of /proc/mounts: space, tab, newline, backslash."""
    for escape, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, plain)
    return text
