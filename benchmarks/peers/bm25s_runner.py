"""Ranks by bm25s, in an environment of its own: one JSON object in, {"rankings": {query: [document, ...]}} out.

In: {"names": [...], "texts": [...], "queries": {name: text}, "depth": 100}. Several texts may have one name: it has
the place of the best of them. English stop words and stems, and the defaults of bm25s (Lucene's BM25, k1 1.5, b .75).
"""

import json
import sys
from typing import Any


def rankings(load: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the names of the best texts for each query, best first."""
    import bm25s  # type: ignore[import-not-found]
    import Stemmer  # type: ignore[import-not-found]

    def tokens(texts: list[str]) -> Any:
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    index.index(tokens(load["texts"]), show_progress=False)
    depth = min(load["depth"], len(load["texts"]))
    asked = list(load["queries"])
    found, _ = index.retrieve(tokens([load["queries"][name] for name in asked]), k=depth, show_progress=False)
    names = load["names"]
    return {name: list(dict.fromkeys(names[place] for place in row)) for name, row in zip(asked, found, strict=True)}


if __name__ == "__main__":
    json.dump({"rankings": rankings(json.load(sys.stdin))}, sys.stdout)
