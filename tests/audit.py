"""What a piece of code does to the machine, as CPython's audit events tell it (PEP 578)."""

from __future__ import annotations

import sys
from typing import Any

_WATCHED = (
    "import",
    "exec",
    "compile",
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.putenv",
    "shutil.",
    "ctypes.",
    "urllib.",
    "pickle.find_class",
    "webbrowser.",
    "ftplib.",
    "smtplib.",
    "sqlite3.",
)


class Audit:
    """`with Audit() as audit:` collects into `audit.events` whatever reaches beyond the process' own data.

    Hooks cannot be removed from an interpreter, so one is installed for good and listens only inside the block.
    """

    _listening: Audit | None = None
    _installed = False

    def __init__(self) -> None:
        self.events: list[str] = []
        self.opened: list[str] = []  # every file, also those that are only read

    def __enter__(self) -> Audit:
        if not Audit._installed:
            sys.addaudithook(Audit._hear)
            Audit._installed = True
        Audit._listening = self
        return self

    def __exit__(self, *_exception: object) -> None:
        Audit._listening = None

    @staticmethod
    def _hear(event: str, arguments: tuple[Any, ...]) -> None:
        audit = Audit._listening
        if audit is None:
            return
        if event in ("open", "sqlite3.connect"):
            audit.opened.append(str(arguments[0]))
        writing = event == "open" and ((isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")) or arguments[2] & 0o3)
        if writing or event.startswith(_WATCHED):
            audit.events.append(f"{event} {arguments[:2]}")
