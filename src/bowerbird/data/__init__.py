"""Pictures in: a folder becomes an array of squares, and nothing that lies in it can break or hide."""

from bowerbird.data.picture_set import Pictures
from bowerbird.data.pictures import open_pictures
from bowerbird.data.report import Inspection, inspect

__all__ = ["Inspection", "Pictures", "inspect", "open_pictures"]
