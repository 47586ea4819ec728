"""File names for people."""


def printable(path: str) -> str:
    """A path as words: control characters, right-to-left marks and bytes that are no text are written out (\\n, \\u202e, \\udcff)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in path)
