"""Files that others wrote, opened: regular ones only, never more of them than so many bytes, and JSON and TOML as plain data.

A named pipe blocks whoever opens it, a device never ends, and deep nesting exhausts the stack of its reader.  Callers see
OSError for what cannot be read, with words in `strerror`, and ValueError for what is not what it should be.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tomllib
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 2**20


def open_regular(path: Path) -> BufferedReader:
    """`path` opened for reading; OSError when it is a pipe, a device, a socket or a folder."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """All of a regular file; ValueError when it is larger than `limit_bytes`."""
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes:,} bytes")
    return data


def read_json(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> Any:
    """The JSON value in a regular file."""
    return parse_json(read_bytes(path, limit_bytes))


def parse_json(data: bytes) -> Any:
    """A JSON value as plain data; ValueError when it is damaged, or nested deeper than Python reads."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """A table of TOML as plain data; ValueError when it is none, or nested deeper than Python reads."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
