"""The files of the Files API that a request names: it has to go where they live.

They stand in content blocks (Anthropic's documentation): as a document's or image's source, within the result of a
tool, or in a block of their own that puts them into a container. Not here: where they live (`resources`).
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from service.providers.bodies import BlockSurvey


class Source(Struct, gc=False):
    """Where a document or an image comes from; a search result's source is a text."""

    file_id: str | None = None


class Block(BlockSurvey, gc=False):
    """A content block, as far as it is looked into; results of tools have blocks of their own."""

    file_id: str | None = None
    source: Source | str | None = None
    content: "str | list[Block] | Block | None" = None


def file_ids(blocks: Sequence[Block]) -> Iterator[str]:
    """The ids of all files in the blocks, in their order."""
    for block in blocks:
        if block.file_id:
            yield block.file_id
        if block.source and isinstance(block.source, Source) and block.source.file_id:
            yield block.source.file_id
        if block.content and not isinstance(block.content, str):
            yield from file_ids(block.content if isinstance(block.content, list) else (block.content,))
