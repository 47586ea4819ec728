"""Training: one loop for every rung.  `loop.train` reads as the table of contents."""

from bowerbird.training.budget import Budget as Budget
from bowerbird.training.loop import forecast as forecast
from bowerbird.training.loop import train as train
