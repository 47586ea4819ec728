"""The styles to look at: a strip of their preview pictures, where a click chooses one or drops it again."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from bowerbird.prompts.library import style_previews
from bowerbird.server.own import preview_address

TOGGLE = """element.addEventListener("click", (event) => {
  const style = event.target.closest("[data-style]")?.dataset.style;
  if (style !== undefined) trigger("select", {value: style, index: 0});
});"""


def style_strip(chosen: Any) -> Any:
    """Build the strip for this dropdown of styles, which it fills in and shows."""
    strip = gr.HTML(lambda: shown(()), js_on_load=TOGGLE, elem_id="styles-to-look-at")

    def toggle(names: list[str], event: gr.SelectData) -> list[str]:
        return [name for name in names if name != event.value] if event.value in names else [*names, event.value]

    strip.select(toggle, chosen, chosen, show_progress="hidden")
    chosen.change(shown, chosen, strip, show_progress="hidden")
    return strip


def shown(chosen: Sequence[str]) -> str:
    """Every style that has a picture, a button each."""
    return f'<div class="styles">{"".join(_button(name, name in chosen) for name in style_previews())}</div>'


def _button(name: str, pressed: bool) -> str:
    said, image = html.escape(name, quote=True), f'<img src="{preview_address(name)}" alt="" loading="lazy">'
    return f'<button type="button" data-style="{said}" aria-pressed="{str(pressed).lower()}">{image}<span>{said}</span></button>'
