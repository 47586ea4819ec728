"""Bowerbird: train image generators on your own pictures, and paint with them.

The public names load on first use, so that `import bowerbird` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bowerbird.threads import sleep_while_waiting

sleep_while_waiting()  # before torch loads, or never

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bowerbird.generate import load as load
    from bowerbird.training import train as train

_HOMES = {"load": "bowerbird.generate", "train": "bowerbird.training"}
__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bowerbird' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
