"""Gives sequences their blocks: those they can take over, and fresh ones for the rest."""

from services.generator.engine.blocks import BlockPool
from services.generator.engine.sequence import Sequence, Stream


class Memory:
    """Knows how a sequence's streams lie in the blocks of a pool."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool

    def place(self, sequence: Sequence, *, spare: int) -> bool:
        """Gives a sequence all blocks for its tokens; False, and none, unless they and some to spare are available."""
        pool = self._pool
        matches = [pool.match(stream.root, stream.tokens, sequence.shareable(stream)) for stream in sequence.streams]
        distinct = {node.block: node for nodes in matches for node in nodes}
        needed = pool.unheld(distinct.values()) + sum(
            pool.blocks_for(len(stream.tokens)) - len(nodes)
            for stream, nodes in zip(sequence.streams, matches, strict=True)
        )
        if needed + spare > pool.available:
            return False
        # All of them are held before the first fresh block, which might take the place of one.
        for stream, nodes in zip(sequence.streams, matches, strict=True):
            stream.blocks = [pool.hold(node) for node in nodes]
            stream.node = nodes[-1] if nodes else pool.root(stream.root)
            stream.computed = len(nodes) * pool.block_size
        for stream in sequence.streams:
            while self.lacks(stream):
                stream.blocks.append(pool.allocate())
        return True

    def lacks(self, stream: Stream) -> bool:
        """Tells whether the stream's tokens need another block."""
        return len(stream.blocks) * self._pool.block_size < len(stream.tokens)

    def grow(self, stream: Stream) -> bool:
        """Gives a stream another block; False if none is available."""
        if not self._pool.available:
            return False
        stream.blocks.append(self._pool.allocate())
        return True

    def take_over(self, sequence: Sequence, stream: Stream) -> int:
        """Goes on behind blocks that another stream has filled, or fills in this step, since this one was placed.

        Returns how many tokens need not be read for it.
        """
        pool, size = self._pool, self._pool.block_size
        limit = sequence.shareable(stream)
        before = stream.computed
        while stream.node is not None and stream.computed % size == 0 and stream.computed + size <= limit:
            node = stream.node.children.get(tuple(stream.tokens[stream.computed : stream.computed + size]))
            if node is None:
                break
            index = stream.computed // size
            own = stream.blocks[index]
            stream.blocks[index] = pool.hold(node)
            pool.release([own])
            stream.node = node
            stream.computed += size
        return stream.computed - before

    def advance(self, stream: Stream, count: int) -> None:
        """Notes that a stream's next tokens are computed, and makes the blocks known that they fill."""
        size = self._pool.block_size
        end = stream.computed + count
        for full in range(stream.computed // size, end // size):
            if stream.node is None:
                break
            tokens = tuple(stream.tokens[full * size : (full + 1) * size])
            stream.node = self._pool.register(stream.node, tokens, stream.blocks[full])
        stream.computed = end

    def drop(self, sequence: Sequence) -> None:
        """Takes all blocks of a sequence away."""
        for stream in sequence.streams:
            self._pool.release(stream.blocks)
            stream.blocks = []
            stream.node = None
