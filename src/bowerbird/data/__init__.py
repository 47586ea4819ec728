"""Pictures in: a folder becomes an array of squares, and nothing that lies in it can break or hide."""

from bowerbird.data.pictures import Pictures, open_pictures

__all__ = ["Pictures", "open_pictures"]
