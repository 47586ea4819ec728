"""What `train` trains when nobody names a recipe: one rule, printed as one line with its reasons and the runner-up.

    captions -> a text recipe        else class folders -> labels        else unconditional

The device and the number of pictures choose the size of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from bowerbird.data.pictures import Survey

_USUAL = "latent-64"
_TEXT = "text-64"
_CAPTIONED = 0.5  # share of pictures with a caption from which on words are worth learning
_PER_CLASS = 10  # pictures of the average class: with fewer a class is learnt by heart
_MANY = 10_000  # pictures that the small network has time to learn on a GPU, and the nano one has no room for


@dataclass(frozen=True)
class Choice:
    """A built-in recipe with settings, and why."""

    recipe: str
    settings: tuple[str, ...]  # section.field=value
    why: str
    runner_up: str

    def line(self) -> str:
        with_settings = f" with {', '.join(self.settings)}" if self.settings else ""
        return f"recipe {self.recipe}{with_settings}: {self.why}. Next best: {self.runner_up}."


def choose(survey: Survey, device: str, known: list[str]) -> Choice:
    """The rule.  device: cpu, cuda, mps; known: names of the recipes there are."""
    unconditional = f"--recipe {_USUAL}, unconditional"
    labelled = f"--recipe {_USUAL} --set condition.label=true, by class"
    by_class = _classes_speak(survey)
    if survey.captioned >= _CAPTIONED * survey.pictures > 0 and _TEXT in known:
        recipe, settings = _TEXT, []
        why, runner_up = f"{survey.captioned:,} of {survey.pictures:,} pictures have captions", labelled if by_class else unconditional
    elif by_class:
        recipe, settings = _USUAL, ["condition.label=true"]
        why, runner_up = f"{survey.classes:,} classes of {survey.pictures / survey.classes:,.0f} pictures on average", unconditional
    else:
        recipe, settings = _USUAL, []
        few = f", or too few pictures of each: {survey.pictures:,} of {survey.classes:,}" if survey.classes > 1 else ""
        why, runner_up = f"there are neither captions nor classes{few}", "--recipe pixel-64, slower and without an autoencoder"
    if device != "cpu" and survey.pictures >= _MANY:
        settings += ["transformer.size=small", "train.init="]
        why += f"; {survey.pictures:,} pictures and a GPU carry a larger network than the starter"
    else:
        why += "; a CPU has time for the small network" if device == "cpu" else f"; {survey.pictures:,} pictures need no larger network"
    return Choice(recipe, tuple(settings), why, runner_up)


def _classes_speak(survey: Survey) -> bool:
    return survey.classes > 1 and survey.pictures >= _PER_CLASS * survey.classes
