"""The command line: one function a command, a file a group.  Words for people go to standard error, results to standard output.

Exit codes: 0 done, 1 our bug, 2 the user can mend it (one sentence, no traceback), 75 stopped and resumable.
Heavy imports stay inside the commands, so that `--help` is instant.
"""

import importlib

from bowerbird.cli.app import main

for group in ("pictures", "train", "paint", "prompting", "judge", "files", "serve"):  # each adds its commands; in the order of --help
    importlib.import_module(f"bowerbird.cli.{group}")

__all__ = ["main"]
