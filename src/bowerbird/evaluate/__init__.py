"""Pictures against pictures: how near generated pictures come to real ones, and whether they copy them.

report = evaluate(generated, against=held_out_pictures, train=training_pictures, out=folder)
"""

from bowerbird.evaluate.judge import evaluate, open_subject
from bowerbird.evaluate.report import Report

__all__ = ["Report", "evaluate", "open_subject"]
