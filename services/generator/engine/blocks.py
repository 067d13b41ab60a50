"""Who holds which block of keys and values, and which full blocks may be taken over.

A trie keeps the full blocks by what they hold: a node stands for the tokens
of one block after those of its parent, under a root for each tenant and
adapter. The keys are the tokens themselves, so that nothing collides. A block
that no stream holds stays in the trie until its place is needed, the least
recently used first.

Whoever holds a node's block holds those of its parents too. So parents are
never released before their children, and the oldest block without a holder
is always a leaf.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

Root = tuple[str, str | None]
"""Tenant and adapter key: nothing is shared across either."""


class Node:
    """Is one full block in the trie; a root has no block."""

    __slots__ = ("__weakref__", "block", "children", "parent", "root", "tokens")

    def __init__(self, root: Root, parent: "Node | None", tokens: tuple[int, ...], block: int) -> None:
        self.root = root
        self.parent = parent
        self.tokens = tokens
        self.block = block
        self.children: dict[tuple[int, ...], Node] = {}


class BlockPool:
    """Counts the holders of each block and finds blocks to take over."""

    def __init__(self, num_blocks: int, block_size: int, *, sharing: bool) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._sharing = sharing
        self._free = list(range(num_blocks - 1, -1, -1))
        self._holders = [0] * num_blocks
        self._nodes: list[Node | None] = [None] * num_blocks
        self._unheld: OrderedDict[int, None] = OrderedDict()
        self._roots: WeakValueDictionary[Root, Node] = WeakValueDictionary()
        """Roots live as long as a block in the trie or a stream needs them."""

    @property
    def available(self) -> int:
        """Returns how many blocks can be had: free ones and those that only the trie keeps."""
        return len(self._free) + len(self._unheld)

    @property
    def cached(self) -> int:
        """Returns how many blocks only the trie keeps."""
        return len(self._unheld)

    @property
    def used(self) -> int:
        """Returns how many blocks are held."""
        return self.num_blocks - self.available

    def blocks_for(self, num_tokens: int) -> int:
        """Returns how many blocks that many positions fill."""
        return -(-num_tokens // self.block_size)

    def root(self, key: Root) -> Node | None:
        """Returns where the prefixes of a tenant and adapter begin; None where nothing is shared."""
        if not self._sharing:
            return None
        node = self._roots.get(key)
        if node is None:
            node = self._roots[key] = Node(key, None, (), -1)
        return node

    def match(self, key: Root, tokens: Sequence[int], limit: int) -> list[Node]:
        """Returns the nodes of the longest known prefix with at most `limit` tokens, without taking hold of them."""
        node = self._roots.get(key)
        found: list[Node] = []
        size = self.block_size
        for end in range(size, limit + 1, size):
            node = node.children.get(tuple(tokens[end - size : end])) if node is not None else None
            if node is None:
                break
            found.append(node)
        return found

    def unheld(self, nodes: Iterable[Node]) -> int:
        """Returns how many of the nodes' blocks no one holds: taking hold of them makes that many less available."""
        return sum(1 for node in nodes if not self._holders[node.block])

    def hold(self, node: Node) -> int:
        """Takes hold of a node's block and returns it."""
        block = node.block
        if not self._holders[block]:
            del self._unheld[block]
        self._holders[block] += 1
        return block

    def allocate(self) -> int:
        """Returns a block for its first holder; what the trie has kept longest gives way. One must be available."""
        block = self._free.pop() if self._free else self._evict()
        self._holders[block] = 1
        return block

    def register(self, parent: Node, tokens: tuple[int, ...], block: int) -> Node | None:
        """Makes a full block known and returns its node; None where another block holds the same already."""
        if tokens in parent.children:
            return None
        node = parent.children[tokens] = self._nodes[block] = Node(parent.root, parent, tokens, block)
        return node

    def release(self, blocks: Sequence[int]) -> None:
        """Lets go of a stream's blocks, given in the order of its positions."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._nodes[block] is None:
                self._free.append(block)
            else:
                self._unheld[block] = None

    def forget(self, blocks: Iterable[int]) -> None:
        """Takes blocks whose content is lost out of the trie, with all that builds on them."""
        for block in blocks:
            node = self._nodes[block]
            if node is not None:
                self._detach(node)
                self._drop(node)

    def _evict(self) -> int:
        block, _ = self._unheld.popitem(last=False)
        node = self._nodes[block]
        if node is None or node.children:
            raise RuntimeError("a block that others build on was about to be evicted")
        self._nodes[block] = None
        self._detach(node)
        return block

    def _detach(self, node: Node) -> None:
        parent = node.parent
        if parent is not None:
            parent.children.pop(node.tokens, None)

    def _drop(self, node: Node) -> None:
        pending = [node]
        while pending:
            node = pending.pop()
            pending += node.children.values()
            node.children.clear()
            self._nodes[node.block] = None
            if not self._holders[node.block]:
                del self._unheld[node.block]
                self._free.append(node.block)
