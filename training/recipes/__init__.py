"""The recipes: from rows of data to examples, the same from the same seed."""

from training.recipes.asked import Asked, Document, Labelled, RecipeInvalid, Written
from training.recipes.passages import Chunk, WordIndex, cut, holds

RECIPES = {
    "closed-book": "question -> short answer, from the weights; the splits are by wording",
    "raft": "question and passages -> short answer or the abstention; by group: a document, the sample company's facts",
    "style": "brief -> text in the house style",
    "classification": "text -> label",
}

__all__ = [
    "RECIPES",
    "Asked",
    "Chunk",
    "Document",
    "Labelled",
    "RecipeInvalid",
    "WordIndex",
    "Written",
    "cut",
    "holds",
]
