"""The proof that the Studio works by clicks alone: a browser that paints, trains on a folder, judges, paints from what it trained.

A language model and a captioner, which it can ask, are stood in for by the smallest that speak their formats.

Writes proof/studio.json, prints a table, and makes the pictures of docs/studio.md.  `make prove-studio`, about ten minutes on two
cores.  It needs playwright (`pip install playwright`) and a Chromium; without one it says so and proves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageChops

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.language_model import LanguageModel, serve  # noqa: E402
from tests.pretrained.test_captioner import blip, write_captioner  # noqa: E402

from bowerbird.jobs import Job, Queue  # noqa: E402
from bowerbird.prompts.expander import ADDRESS  # noqa: E402

PICTURES = ROOT / "docs/pictures"
BIRDS_FROM_ROOT = "examples/birds"
BIRDS = ROOT / BIRDS_FROM_ROOT
TRAIN_HOURS = "0.03"
DESKTOP, PHONE = (1280, 900), (390, 844)


@contextlib.contextmanager
def studio(home: Path) -> Iterator[tuple[str, float]]:
    """`bowerbird studio` on this queue: its address, and the seconds until it answered at all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bowerbird", "--device", "cpu", "studio", "--no-browser", "--port", str(port), "--home", str(home)]
    home.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (home / "studio.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() - began < 120, (home / "studio.log").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}", time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, "SIGTERM ends the Studio quietly"


class Visitor:
    """One person at one page.  Counts what hands do: clicks, keys pressed together, fields written in."""

    def __init__(self, page: Any, queue: Queue) -> None:
        self.page, self.queue = page, queue
        self.clicks = self.fields = 0

    def click(self, target: Any) -> None:
        target.click()
        self.clicks += 1

    def write(self, target: Any, words: str) -> None:
        target.fill(words)
        self.fields += 1

    def tab(self, name: str) -> None:
        self.click(self.page.get_by_role("tab", name=name))

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True).locator("visible=true").first

    def choose(self, label: str, option: str) -> None:
        """One of a list, found by the beginning of its words."""
        self.click(self.page.get_by_label(label, exact=True).locator("visible=true").first)
        self.click(self.page.locator("[role=option]:visible", has_text=option).first)

    def newest(self, kind: str) -> Job:
        return self.queue.jobs(kinds=(kind,), limit=1)[0]  # type: ignore[arg-type]

    def over(self, kind: str, others: int, seconds: float = 120) -> Job:
        """The job of that kind that came after so many others, once it is over."""
        end = time.monotonic() + seconds
        while len(self.queue.jobs(kinds=(kind,))) <= others or not self.newest(kind).is_over:  # type: ignore[arg-type]
            assert time.monotonic() < end, f"no {kind} was over within {seconds:.0f} s"
            self.page.wait_for_timeout(100)
        return self.newest(kind)

    def done(self, kind: str, others: int, seconds: float = 120) -> Job:
        """As `over`, of a job that succeeds."""
        job = self.over(kind, others, seconds)
        assert job.state == "done", job.error
        return job

    def shows(self, job: Job) -> None:
        """The page has every picture of the job, loaded."""
        for number in range(len(job.paths)):
            image = self.page.locator(f'img[src^="/pictures/{job.id}/{number}"]').locator("visible=true").first
            image.wait_for()
            self.page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())

    def photograph(self, name: str) -> None:
        """The page as a picture of docs/studio.md."""
        with tempfile.TemporaryDirectory() as temporary:
            self.page.screenshot(path=f"{temporary}/page.png")
            with Image.open(f"{temporary}/page.png") as picture:
                whole = picture.convert("RGB")
        width = min(900, whole.width)
        whole.resize((width, whole.height * width // whole.width), Image.Resampling.LANCZOS).save(PICTURES / name, quality=80, method=6)


def opened(visitor: Visitor, address: str) -> None:
    visitor.page.goto(f"{address}/")
    usable(visitor)


def usable(visitor: Visitor) -> None:
    """The page has come, and what it loads on its own has been filled in."""
    visitor.page.wait_for_selector("#prompt textarea", timeout=120_000)
    visitor.page.wait_for_function("document.querySelectorAll('.examples button').length > 0")
    visitor.page.wait_for_timeout(1500)  # settings that the browser remembers


def first_picture(visitor: Visitor) -> dict[str, Any]:
    """From nothing to a kept picture: an example and the button; or words and Ctrl+Enter."""
    page = visitor.page
    visitor.clicks = 0
    visitor.click(page.get_by_role("button", name="noto emoji of a birthday cake"))
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('cake')")
    visitor.click(page.locator("#paint"))
    began = time.monotonic()
    job = visitor.done("paint", 0)
    visitor.shows(job)
    figures = {"clicks to a kept picture": visitor.clicks, "s to four pictures, model opened": round(time.monotonic() - began, 1)}
    assert job.request["prompt"] == "noto emoji of a birthday cake" and len(job.paths) == 4

    visitor.write(page.locator("#prompt textarea"), "clip art of a sailing boat")
    page.keyboard.press("Control+Enter")
    began = time.monotonic()
    job = visitor.done("paint", 1)
    visitor.shows(job)
    figures["s to four pictures"] = round(time.monotonic() - began, 1)
    assert job.request["prompt"] == "clip art of a sailing boat"
    visitor.photograph("studio-paint.webp")
    return figures


def final_prompt(visitor: Visitor) -> dict[str, Any]:
    """What the model reads is shown before it is painted, painted as shown, edited, locked; other words are asked anew."""
    page = visitor.page
    final, locked = page.locator("#final textarea"), page.locator("#lock input")
    visitor.write(page.locator("#prompt textarea"), "clip art of a __colour__ sailing boat")
    visitor.click(page.locator("#reads button").first)
    page.wait_for_function("/clip art of a .+ sailing boat/.test(document.querySelector('#final textarea').value)")
    foretold = final.input_value()
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", before)
    visitor.shows(job)
    assert job.result["settings"]["prompt"] == foretold and "__" not in foretold, foretold
    final.press("End")
    final.press_sequentially(" on a lake")
    page.wait_for_function("document.querySelector('#lock input').checked")
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", before + 1)
    visitor.shows(job)
    edited = final.input_value()
    assert job.result["settings"]["prompt"] == edited and edited.endswith("on a lake")
    page.locator("#shown").evaluate("part => part.scrollIntoView()")
    page.wait_for_timeout(500)
    visitor.photograph("studio-final.webp")
    page.locator("#prompt textarea").press_sequentially("s")
    page.wait_for_function("!document.querySelector('#lock input').checked && !document.querySelector('#final textarea').value")
    assert not locked.is_checked()
    visitor.click(page.locator("#reads button").first)
    return {"shown before": foretold, "painted": "the same", "edited": "locked by it", "other words": "unlocked"}


def settings(visitor: Visitor) -> dict[str, Any]:
    """What is chosen reaches the request; what cannot be gets a sentence; the browser remembers."""
    page = visitor.page
    visitor.click(page.get_by_text("More settings"))
    steps = page.get_by_role("textbox", name="steps sampling steps")
    visitor.write(steps, "none")
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    said = page.locator("#said .bad")
    said.wait_for()
    assert "steps" in said.inner_text() and len(visitor.queue.jobs(kinds=("paint",))) == before
    visitor.write(steps, "9")
    visitor.choose("then", "upscaler")
    page.keyboard.press("Escape")
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", before)
    with Image.open(job.paths[0]) as picture:
        assert job.request["steps"] == 9 and picture.size == (256, 256)
    page.reload()
    usable(visitor)
    visitor.click(page.get_by_text("More settings"))
    steps.wait_for()
    page.wait_for_function("input => input.value === '9'", arg=steps.element_handle())
    visitor.write(steps, "")
    page.get_by_label("then", exact=True).locator("visible=true").first.press("Backspace")  # takes the last choice away
    page.keyboard.press("Escape")
    page.wait_for_timeout(1000)
    return {"an impossible value": "a sentence, nothing queued", "upscaled to": "256x256", "after a reload": "remembered"}


def completed(visitor: Visitor, model: LanguageModel) -> dict[str, Any]:
    """A language model's words are shown and painted; one that fails is a sentence, and the page paints on."""
    page, said = visitor.page, visitor.page.locator("#said .bad")
    visitor.tab("Paint")
    visitor.write(page.locator("#prompt textarea"), "a fox")
    visitor.click(page.get_by_text("More settings"))
    visitor.choose("expand", "llm")
    visitor.click(page.locator("#reads button").first)
    page.wait_for_function("document.querySelector('#final textarea').value.includes('a fox, snow')")
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", before)
    visitor.shows(job)
    words = job.result["settings"]["prompt"]
    assert words == page.locator("#final textarea").input_value() and len(model.asked) == 2, words
    model.dribbles = True
    visitor.click(page.locator("#paint"))
    page.locator("#said", has_text="ask the language model").wait_for()
    visitor.click(page.locator("#stop"))
    page.locator("#said", has_text="stopped").wait_for()
    model.dribbles, model.status = False, 500
    visitor.click(page.locator("#show"))
    said.wait_for()
    assert "does not answer" in said.inner_text(), said.inner_text()
    jobs = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    assert visitor.over("paint", jobs).state == "failed"
    said.wait_for()
    assert "does not answer" in said.inner_text(), said.inner_text()
    model.status, jobs = 200, jobs + 1
    visitor.click(page.locator("#paint"))
    visitor.shows(visitor.done("paint", jobs))
    assert not said.count()
    return {"it read": words, "one that is slow": "left by Stop", "one that is broken": "a sentence", "afterwards": "painted"}


def captioned(visitor: Visitor, captioner: Path) -> dict[str, Any]:
    """A captioner's words for a dropped picture become the prompt by a click; one that there is not is a sentence."""
    page = visitor.page
    page.reload()
    usable(visitor)
    visitor.click(page.locator("#from-picture button").first)
    drop_picture(visitor, sorted(BIRDS.glob("*.webp"))[0])
    whose = page.locator("#whose textarea, #whose input").first
    for name in (str(captioner.parent / "nowhere"), str(captioner)):
        visitor.write(whose, name)
        visitor.click(page.locator("#describe"))
        if name == str(captioner):
            break
        page.locator("#from-picture .bad", has_text="nowhere").wait_for()
    caption = page.locator("#captions label").first
    caption.wait_for(timeout=120_000)
    words = caption.inner_text().strip()
    visitor.click(caption)
    page.wait_for_function("words => document.querySelector('#prompt textarea').value === words", arg=words)
    return {"it says": words, "by a click": "the prompt", "one that there is not": "a sentence"}


def styled(visitor: Visitor) -> dict[str, Any]:
    """A click on its picture chooses a style, unlocks the words, is read and remembered; a second one drops it."""
    page = visitor.page
    final, style = page.locator("#final textarea"), page.locator('[data-style="twemoji"]')
    pictures = page.locator("[data-style] img")

    def is_pressed(yes: bool) -> None:
        page.locator(f'[data-style="twemoji"][aria-pressed="{str(yes).lower()}"]').wait_for()

    def painted() -> Job:
        before = len(visitor.queue.jobs(kinds=("paint",)))
        visitor.click(page.locator("#paint"))
        job = visitor.done("paint", before)
        visitor.shows(job)
        return job

    page.reload()
    usable(visitor)
    visitor.click(page.get_by_text("More settings"))
    for number in range(pictures.count()):
        pictures.nth(number).scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=pictures.nth(number).element_handle())
    visitor.write(page.locator("#prompt textarea"), "a penguin")
    visitor.click(page.locator("#reads button").first)
    page.wait_for_function("document.querySelector('#final textarea').value === 'a penguin'")
    visitor.click(page.locator("#lock input"))
    visitor.click(style)
    is_pressed(True)
    page.wait_for_function("!document.querySelector('#lock input').checked && !document.querySelector('#final textarea').value")
    job = painted()
    words = "twemoji of a penguin, white background"
    assert job.request["styles"] == ["twemoji"] and job.result["settings"]["prompt"] == words and final.input_value() == words, job.request
    visitor.click(page.locator("#reads button").first)
    page.locator("#styles-to-look-at").evaluate("part => part.scrollIntoView(false)")
    page.wait_for_timeout(500)
    visitor.photograph("studio-styles.webp")
    page.reload()
    usable(visitor)
    visitor.click(page.get_by_text("More settings"))
    is_pressed(True)
    visitor.write(page.locator("#prompt textarea"), "a penguin")
    visitor.click(style)
    is_pressed(False)
    page.wait_for_timeout(1000)
    assert painted().result["settings"]["prompt"] == "a penguin"
    return {"styles with a picture": pictures.count(), "by a click": words, "after a reload": "remembered", "by another": "dropped"}


def compared(visitor: Visitor) -> dict[str, Any]:
    """One labelled sheet of the same picture under changed settings."""
    page = visitor.page
    visitor.write(page.get_by_label("compare, in columns"), "steps=2,6,12")
    visitor.click(page.locator("#paint"))
    job = visitor.done("compare", 0)
    sheet = page.locator(f'img[src^="/pictures/{job.id}/{job.result["sheet"]}"]').locator("visible=true").first
    sheet.wait_for()
    visitor.write(page.get_by_label("compare, in columns"), "")
    return {"places": len(job.paths) - 1, "shown": "one sheet"}


def drop_picture(visitor: Visitor, file: Path) -> None:
    """The picture to start from; it is there when it can be clicked at."""
    place = visitor.page.locator("#source input[type=file]").first
    place.wait_for(state="attached")
    visitor.page.wait_for_timeout(1500)  # it is there before it listens
    place.set_input_files(file)
    visitor.page.locator("#covered img").first.wait_for()
    visitor.page.wait_for_timeout(1500)


def clicked(visitor: Visitor) -> dict[str, Any]:
    """A thing is clicked at: it is shown covered, and it alone is painted anew, enlarged."""
    page = visitor.page
    source = Image.new("RGB", (320, 240), "white")
    source.paste(Image.new("RGB", (110, 110), (235, 180, 40)), (60, 60))
    source.paste(Image.new("RGB", (60, 60), (60, 110, 190)), (220, 140))
    with tempfile.TemporaryDirectory() as temporary:
        source.save(f"{temporary}/things.png")
        page.reload()
        usable(visitor)
        visitor.click(page.locator("#from-picture button").first)
        drop_picture(visitor, Path(f"{temporary}/things.png"))
    over = page.locator("#covered img").first
    over.scroll_into_view_if_needed()
    box, shown = over.bounding_box(), over.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    scale = min(1, box["width"] / shown[0], box["height"] / shown[1])
    at = [(place / side - 0.5) * pixels * scale for place, side, pixels in zip((115, 115), source.size, shown, strict=True)]
    before = over.get_attribute("src")
    page.mouse.click(box["x"] + box["width"] / 2 + at[0], box["y"] + box["height"] / 2 + at[1])
    visitor.clicks += 1
    page.wait_for_function("before => document.querySelector('#covered img').src !== before", arg=before)
    page.wait_for_timeout(1000)
    number = page.get_by_label("number input for strength").first
    strength = number.input_value()
    visitor.click(page.get_by_label("detail", exact=True))
    page.wait_for_function("input => input.value === '0.5'", arg=number.element_handle())
    jobs = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.write(page.locator("#prompt textarea"), "a red heart")
    page.locator("#from-picture").scroll_into_view_if_needed()
    visitor.photograph("studio-mask.webp")
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", jobs)
    mask = np.asarray(Image.open(job.request["mask"]).convert("L")) > 0
    thing = np.zeros_like(mask)
    thing[59:171, 59:171] = True  # grown by a pixel
    assert (mask == thing).all() and job.request["detail"]
    kept = np.asarray(Image.open(job.request["image"]).convert("RGB"))
    assert (np.asarray(Image.open(job.paths[0]).convert("RGB"))[~mask] == kept[~mask]).all()
    return {"covered by a click": "the thing clicked at", "strength": f"{strength}, with detail {job.request['strength']}"}


def many_pictures(visitor: Visitor) -> dict[str, Any]:
    """Each of several dropped pictures is varied; one that cannot be read is named, and costs the others nothing."""
    page, good = visitor.page, sorted(BIRDS.glob("*.webp"))[:3]
    page.reload()
    usable(visitor)
    visitor.click(page.locator("#from-picture button").first)
    visitor.click(page.locator("#many-pictures button").first)
    with tempfile.TemporaryDirectory() as temporary:
        broken = Path(temporary, "broken.webp")
        broken.write_bytes(good[0].read_bytes()[:99])
        page.locator("#many input[type=file]").set_input_files([good[0], broken, *good[1:]])
        page.locator("#many", has_text="broken").wait_for()
        page.wait_for_timeout(1500)
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.write(page.locator("#prompt textarea"), "clip art of a bird")
    visitor.click(page.locator("#paint"))
    visitor.done("paint", before + 3)
    jobs = visitor.queue.jobs(kinds=("paint",), limit=4)
    done = [job for job in jobs if job.state == "done"]
    for job in done:
        visitor.shows(job)
    said = page.locator("#said .bad").inner_text()
    assert {Path(str(job.request["image"])).name for job in done} == {picture.name for picture in good}, said
    visitor.photograph("studio-many.webp")
    return {"dropped": len(jobs), "varied": len(done), "it says": said}


def described(visitor: Visitor) -> dict[str, Any]:
    """A picture's words, those of the nearest that the chosen model learnt from, become the prompt by a click."""
    page = visitor.page
    visitor.tab("Paint")
    name = Path(str(visitor.newest("train").request["out"])).name
    first = sorted(BIRDS.glob("*.webp"))[0]
    page.reload()
    usable(visitor)
    visitor.click(page.locator("#from-picture button").first)
    drop_picture(visitor, first)
    visitor.click(page.locator("#describe"))
    page.locator("#from-picture .bad", has_text="learnt from are not here").wait_for()  # those of the starter stayed at home
    visitor.choose("model", name)
    visitor.click(page.locator("#describe"))
    caption = page.locator("#captions label").first
    caption.wait_for(timeout=120_000)
    nearest = caption.inner_text().rpartition(" · ")
    page.locator("#captions").evaluate("part => part.scrollIntoView(false)")
    page.wait_for_timeout(500)
    visitor.photograph("studio-describe.webp")
    visitor.click(caption)
    page.wait_for_function("words => document.querySelector('#prompt textarea').value === words", arg=nearest[0].strip())
    assert first.stem.rpartition("-")[2] in nearest[0], nearest
    return {"nearest": nearest[0].strip(), "likeness": nearest[2], "by a click": "the prompt"}


def forecast(visitor: Visitor) -> dict[str, Any]:
    """Before a training begins, what it will take; and it can be left."""
    page = visitor.page
    visitor.tab("Train")
    visitor.write(page.locator("#folder textarea, #folder input").first, BIRDS_FROM_ROOT)
    visitor.click(page.locator("#forecast"))
    visitor.click(page.locator("#leave"))
    page.locator("p.bad:visible", has_text="was stopped").wait_for()
    began = time.monotonic()
    visitor.click(page.locator("#forecast"))
    page.locator("#leave").wait_for()
    page.locator("#leave").wait_for(state="hidden", timeout=400_000)
    said = page.locator("p.sentence:visible", has_text="pictures/s")  # the run that was trained says such a thing too, further down
    return {"left": "in a sentence", "s to a forecast": round(time.monotonic() - began), "it says": said.first.inner_text()[:80]}


def painted_anew(visitor: Visitor) -> dict[str, Any]:
    """A picture dropped, a part of it brushed over: that part alone changes."""
    page = visitor.page
    source = Image.open(visitor.newest("paint").paths[0]).convert("RGB").resize((256, 256))
    with tempfile.TemporaryDirectory() as temporary:
        source.save(f"{temporary}/mine.png")
        page.reload()
        usable(visitor)
        visitor.click(page.locator("#from-picture button").first)
        drop_picture(visitor, Path(f"{temporary}/mine.png"))
    canvas = page.locator("canvas").first
    box = canvas.bounding_box()
    brush = page.get_by_label("Brush").first
    if brush.count():
        visitor.click(brush)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 25, middle[1] + 15, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)
    visitor.clicks += 1
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.write(page.locator("#prompt textarea"), "a red heart")
    visitor.click(page.locator("#paint"))
    job = visitor.done("paint", before)
    mask = Image.open(job.request["mask"]).convert("L")
    share = sum(mask.histogram()[128:]) / (mask.width * mask.height)
    kept = Image.open(job.request["image"]).convert("RGB")
    result = Image.open(job.paths[0]).convert("RGB")
    outside = ImageChops.invert(mask.resize(result.size)).point(lambda value: 255 if value == 255 else 0)
    difference = ImageChops.difference(result, kept.resize(result.size))
    changed = int(np.asarray(Image.composite(difference, Image.new("RGB", result.size), outside)).max())
    assert 0 < share < 0.5 and changed == 0, (share, changed)
    return {"share of the picture brushed over": round(share, 3), "largest change outside it, of 255": changed}


def trained(visitor: Visitor) -> dict[str, Any]:
    """A folder, a recipe, a budget: a model, a judgement, a picture from it, by clicks and two fields."""
    page = visitor.page
    visitor.clicks = visitor.fields = 0
    visitor.tab("Train")
    visitor.write(page.locator("#folder textarea, #folder input").first, BIRDS_FROM_ROOT)
    visitor.click(visitor.button("Look through"))
    page.locator("pre.told").wait_for(timeout=60_000)
    visitor.write(page.get_by_label("hours"), TRAIN_HOURS)
    page.keyboard.press("Tab")
    began = time.monotonic()
    visitor.click(page.locator("#train"))
    grid = page.locator('img[alt="grid of the run"]')
    grid.wait_for(timeout=300_000)
    page.wait_for_function("image => image.complete && image.naturalHeight > 0", arg=grid.element_handle())  # before that it has no height
    page.locator("#train").evaluate("part => part.scrollIntoView()")
    page.wait_for_timeout(500)
    visitor.photograph("studio-train.webp")
    job = visitor.done("train", 0, 600)
    took = time.monotonic() - began
    name = Path(str(job.request["out"])).name
    visitor.tab("Paint")
    page.wait_for_timeout(1500)
    visitor.choose("model", name)
    before = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    painted = visitor.done("paint", before)
    visitor.shows(painted)
    assert Path(str(painted.request["model"])).name == name
    figures = {"clicks to a picture from one's own model": visitor.clicks, "fields written": visitor.fields, "s of training": round(took)}
    visitor.tab("Train")
    visitor.click(visitor.button("Judge"))
    visitor.done("evaluate", 0, 600)
    report = page.locator('a[href$="report.html"]', has_text="closest pairs")
    report.wait_for()
    answer = page.request.get(page.url.split("/studio")[0] + report.get_attribute("href"))
    assert answer.ok and "KID" in answer.text()
    return {**figures, "judged": "with its closest pairs"}


def gallery(visitor: Visitor) -> dict[str, Any]:
    """Search, choose by a click, compare, take the settings, throw away."""
    page = visitor.page
    visitor.tab("Gallery")
    tiles = page.locator(".tiles.small figure")
    tiles.first.wait_for()
    everything = tiles.count()
    visitor.write(page.get_by_label("search"), "sailing boat")
    page.wait_for_function("count => document.querySelectorAll('.tiles.small figure').length < count", arg=everything)
    found = tiles.count()
    job_id = tiles.first.get_attribute("data-job")
    visitor.write(page.get_by_label("search"), "")
    page.wait_for_function("count => document.querySelectorAll('.tiles.small figure').length === count", arg=everything)
    visitor.click(page.locator(f'.tiles.small figure[data-job="{job_id}"]').first)
    page.locator("table.told:visible", has_text="sailing boat").first.wait_for()
    page.locator(".tiles.small figure").last.click(modifiers=["Shift"])
    page.wait_for_function("document.querySelectorAll('table.told').length >= 2")
    visitor.photograph("studio-gallery.webp")
    visitor.click(visitor.button("Use its settings"))
    page.locator("p.sentence:visible", has_text="its settings are in Paint").wait_for()
    visitor.tab("Paint")
    words = visitor.queue.get(str(job_id)).request["prompt"]
    page.wait_for_function("words => document.querySelector('#prompt textarea').value === words", arg=words)
    jobs = len(visitor.queue.jobs(kinds=("paint",)))
    visitor.click(page.locator("#paint"))
    again = visitor.done("paint", jobs)
    assert again.result["settings"]["prompt"] == visitor.queue.get(str(job_id)).result["settings"]["prompt"]
    everything += len(again.paths)
    visitor.tab("Gallery")
    page.wait_for_timeout(500)
    visitor.click(visitor.button("Into the bin"))
    page.wait_for_function("count => document.querySelectorAll('.tiles.small figure').length < count", arg=everything)
    assert (visitor.queue.home / "bin" / str(job_id)).is_dir()
    return {"pictures": everything, "found by two words": found, "thrown into the bin": "moved, not deleted"}


def phone(visitor: Visitor) -> dict[str, Any]:
    """Nothing sticks out at a phone's width, on any tab, light or dark."""
    page, tabs = visitor.page, ("Paint", "Gallery", "Train", "Queue", "Models")
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for name in tabs:
            if not page.get_by_role("tab", name=name).is_visible():  # the tabs that have no room are behind a button
                page.locator(".overflow-menu button").first.click()
            page.get_by_role("tab", name=name).or_(page.get_by_role("button", name=name, exact=True)).locator("visible=true").first.click()
            folded = page.locator("[role=tabpanel] button.label-wrap:not(.open)").locator("visible=true")
            while folded.count():
                folded.first.click()
                page.wait_for_timeout(300)
            page.wait_for_timeout(1200)
            parts = page.locator("[role=tabpanel] :is(table.told, .tiles, .styles, button:not(.styles *), input, textarea, p)").locator(
                "visible=true"
            )
            wide = parts.evaluate_all("parts => Math.max(...parts.map((part) => part.getBoundingClientRect().right)) - window.innerWidth")
            page.screenshot(path=f"proof/studio-{scheme}-{name.lower()}.png", full_page=True)
            wide = max(wide, page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth"))
            assert wide <= 0, f"{name} sticks out by {wide} px"
    return {"tabs at 390 px": len(tabs), "sticking out": 0}


def main() -> None:
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("no Chromium was found; install one and run this again.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    document: dict[str, Any] = {"python": platform.python_version(), "parts": {}}
    Path("proof").mkdir(exist_ok=True)

    def told(part: str, figures: dict[str, Any]) -> None:
        document["parts"][part] = figures
        print(f"{part:12} {', '.join(f'{key} {value}' for key, value in figures.items())}", flush=True)

    asked_for: set[str] = set()
    model = LanguageModel()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright, serve(model) as address_of_model:
        os.environ[ADDRESS] = address_of_model
        home = Path(temporary) / "home"
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = chromium.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
        context.on("request", lambda request: asked_for.add(str(urlsplit(request.url).hostname)))
        page = context.new_page()
        page.set_default_timeout(60_000)
        began = time.monotonic()
        with studio(home) as (address, answered):
            visitor = Visitor(page, Queue(home))
            opened(visitor, address)
            told("start", {"s to an answer": round(answered, 1), "s to a usable page": round(time.monotonic() - began - 1.5, 1)})
            painting = (first_picture, final_prompt, settings, styled, compared, painted_anew, clicked, many_pictures)
            for part in (*painting, trained, described, gallery, forecast):
                try:
                    told(part.__name__.replace("_", " "), part(visitor))
                except BaseException:
                    page.screenshot(path="proof/studio-failed.png", full_page=True)
                    raise
        with studio(home) as (address, _):
            opened(visitor, address)
            visitor.tab("Gallery")
            page.locator(".tiles.small figure").first.wait_for()
            told("restart", {"pictures still there": page.locator(".tiles.small figure").count()})
            told("completed", completed(visitor, model))
            told("captioned", captioned(visitor, write_captioner(Path(temporary) / "captioner", blip)))
            told("phone", phone(visitor))
        chromium.close()
    told("network", {"hosts asked for": sorted(host for host in asked_for if host != "None")})
    assert asked_for <= {"127.0.0.1", "None"}, asked_for
    Path("proof/studio.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
