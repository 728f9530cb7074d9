"""Content encodings both ways: answers compressed piece by piece, requests decompressed whole."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TypeAlias

import brotli  # type: ignore[import-untyped]
import zstandard

Compressor: TypeAlias = tuple[Callable[[bytes], bytes], Callable[[], bytes], Callable[[], bytes]]


class BadEncoding(Exception):
    """The bytes are not in the encoding that they are said to be in."""


def compressor(encoding: str) -> Compressor:
    """Its compress, flush and finish."""
    if encoding == "br":
        br = brotli.Compressor()
        return br.process, br.flush, br.finish
    if encoding == "zstd":
        zstd = zstandard.ZstdCompressor().compressobj()
        return zstd.compress, lambda: zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), zstd.flush
    wbits = 31 if encoding == "gzip" else 15
    zlibbed = zlib.compressobj(wbits=wbits)
    return zlibbed.compress, lambda: zlibbed.flush(zlib.Z_SYNC_FLUSH), zlibbed.flush


def decompress(body: bytes, encoding: str) -> bytes:
    """The decompressed body; BadEncoding when it can't be."""
    try:
        match encoding:
            case "gzip":
                return zlib.decompress(body, wbits=31)
            case "deflate":
                return zlib.decompress(body)
            case "br":
                return bytes(brotli.decompress(body))
            case "zstd":
                return zstandard.ZstdDecompressor().decompressobj().decompress(body)
            case _:
                return body
    except (zlib.error, brotli.error, zstandard.ZstdError) as error:
        raise BadEncoding(encoding) from error
