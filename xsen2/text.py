"""Text that comes from outside, fit to be shown."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, most: int = 0) -> str:
    r"""Text with escapes for all that is no sign: control characters, line ends, and bytes that are not UTF-8.

    Names of files and fields of other people's metadata may hold them. A terminal would obey some, and others cannot
    be written to a file at all.

    Parameters
    ----------
    text : str
    most : int
        Signs after which it is cut; 0 for all.

    Examples
    --------
    >>> print(printable("lake\x1b[2J\udcff"))
    lake\x1b[2J\udcff
    """
    if most and len(text) > most:
        text = text[:most] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
