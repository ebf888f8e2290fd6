"""Remove what is no pixel from a PNG: text, color profile and other chunks that can be broken or too large to read."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"tRNS", b"eXIf")
"""Ancillary chunks that change pixels: transparency, and the orientation."""


def pixel_chunks(content: bytes) -> bytes:
    """Return a PNG with its critical chunks and ``KEPT``; a file of another format as it is."""
    if not content.startswith(SIGNATURE):
        return content
    kept, at = [SIGNATURE], len(SIGNATURE)
    while at < len(content):
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if kind[:1].isupper() or kind in KEPT:
            kept.append(content[at:end])
        at = end
    return b"".join(kept)
