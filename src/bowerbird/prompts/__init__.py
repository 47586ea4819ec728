"""From what a person asks to what a model reads: the prompt language, styles, presets, speeds and the expander.

finish(request) is all that a face needs.  Nothing here loads torch.
"""

from __future__ import annotations

from bowerbird.prompts.finish import announced, changed, finish, in_words, is_locked, lock, with_preset

__all__ = ["announced", "changed", "finish", "in_words", "is_locked", "lock", "with_preset"]
