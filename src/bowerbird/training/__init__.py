"""Training: one loop for every rung.  `loop.train` reads as the table of contents."""

from bowerbird.training.loop import train as train
