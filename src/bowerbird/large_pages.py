"""Memory for training on a processor: kept between steps, and in large pages.

Every step frees what it computed with, some hundred megabytes in pieces of about one.  The GNU C library gives such pieces back to
the system, and the next step is handed new ones: tens of thousands of pages of 4 KiB a second, each of them filled with zeros
first; and so many small pages that the processor keeps looking up where they are, which in a virtual machine costs twice.
Measured: docs/budget.md, *Memory that is kept*.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library
_MADV_HUGEPAGE = 14  # madvise(2)
_LARGEST_KEPT = 32 * 2**20  # bytes: the most that M_MMAP_THRESHOLD may be
_HEAP = 2**31 - 2**20  # bytes of addresses to begin with; memory is taken only for those that are written to


def keep_memory() -> bool:
    """From now on, freed memory stays with this process, and the heap is in large pages where the system has them.

    Returns whether it could be done: Linux with the GNU C library.  What is computed does not change.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        return False
    for option, value in ((_M_MMAP_THRESHOLD, _LARGEST_KEPT), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _HEAP)):
        library.mallopt(option, value)
    library.malloc.restype, library.malloc.argtypes, library.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
    library.free(library.malloc(_LARGEST_KEPT // 2))  # the heap grows now, all at once, so that one call names it
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("[heap]"):
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_HUGEPAGE)
    return True
