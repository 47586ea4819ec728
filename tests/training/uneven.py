"""`bowerbird` in one of several processes whose clocks disagree: the second's runs a thousand times as fast."""

from __future__ import annotations

import os
import time

true = time.monotonic
if os.environ["RANK"] == "1":
    time.monotonic = lambda: 1000 * true()

from bowerbird.cli import main  # noqa: E402 - with the clock set

if __name__ == "__main__":
    main()
