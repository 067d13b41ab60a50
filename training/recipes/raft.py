"""raft: question and passages -> short answer, so that the model reads what a search brought (arXiv 2403.10131).

Each case has distractors, the best of a word search that do not hold the
answer. In a share of the cases the passage with the answer is taken away, and
what is to be learnt is the abstention. The prompt is the one of serving
(tandem/prompts.py). Which passage an answer rests on is found there by
comparing their words, so the model learns to answer in the passage's own
words and not to write marks such as [1], which serving would not read.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from tandem import prompts
from training.data.report import Finding
from training.examples import Example
from training.recipes import closed_book
from training.recipes.asked import Asked, Document, RecipeInvalid
from training.recipes.passages import Chunk, WordIndex, cut, holds

ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"
_PLACES = ((0, 1, 2), (6, 3, 1))
"""Where the right passage stands, and how often out of ten: a search puts it first more often than not."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Says how cases are put together."""

    max_passages: int = 5
    """Most passages of a case; the number is drawn from 2 to this."""
    absent_share: float = 0.15
    """Share of the answerable questions that are shown without the passage that answers them."""
    num_variants: int = 3
    """Cases of each question to train on, with other passages, cuts and order; held-back questions come once."""
    chunk_characters: tuple[int, ...] = (450, 900)
    """Sizes of passages; each case is cut to one of them."""

    def __post_init__(self) -> None:
        if self.max_passages < 2 or self.num_variants < 1 or not self.chunk_characters:
            raise RecipeInvalid("raft needs at least 2 passages, 1 variant and 1 size of passages")
        if not 0 <= self.absent_share < 1 or min(self.chunk_characters) < 50:
            raise RecipeInvalid("absent_share is from 0 to below 1, a passage has at least 50 characters")


class Library:
    """Holds the documents, cut to each size, with an index over each."""

    def __init__(self, documents: Sequence[Document], settings: Settings) -> None:
        self.ids = frozenset(document.document_id for document in documents)
        self._cuts = [cut(documents, max_characters=size) for size in settings.chunk_characters]
        self._indexes = [WordIndex([chunk.text for chunk in found]) for found in self._cuts]
        # A question is asked again for each of its variants.
        self._best = lru_cache(maxsize=len(self._cuts))(self._ranked)
        self._places: list[dict[str, list[int]]] = []
        for found in self._cuts:
            by_document: dict[str, list[int]] = {}
            for place, chunk in enumerate(found):
                by_document.setdefault(chunk.document_id, []).append(place)
            self._places.append(by_document)

    def bring(self, row: Asked, rng: Random, *, count: int) -> tuple[list[Chunk], list[Chunk]]:
        """Returns the passages that answer the question, best first, and the `count` best others."""
        which = rng.randrange(len(self._cuts))
        found = self._cuts[which]
        best = self._best(which, row.question, count + 12)
        own = [place for name in row.documents for place in self._places[which].get(name, ())]
        # Where no document was named any passage that ranks well and holds the answer will do.
        golds = [
            place for place in (own if row.documents else best) if row.answers and holds(found[place].text, row.answers)
        ]
        rank = {place: number for number, place in enumerate(best)}
        golds.sort(key=lambda place: rank.get(place, len(rank)))
        # A title is shown with its passage in some cases, and may hold the answer as well.
        others = [
            place
            for place in best
            if not row.answers or not holds(f"{found[place].title}\n{found[place].text}", row.answers)
        ]
        return [found[place] for place in golds], [found[place] for place in others[:count]]

    def _ranked(self, which: int, question: str, count: int) -> list[int]:
        return self._indexes[which].best(question, count)


def build(
    splits: Mapping[str, Sequence[Asked]], documents: Sequence[Document], *, seed: int, settings: Settings | None = None
) -> dict[str, list[Example]]:
    """Returns the examples of each split; a question whose answer stands in no passage word for word is left out.

    Raises RecipeInvalid without documents, and where no question is left to train on.
    """
    settings = settings or Settings()
    if not documents:
        raise RecipeInvalid("raft needs the documents that the answers stand in; name them with --documents")
    library = Library(documents, settings)
    examples = {
        name: [
            case
            for row in rows
            for variant in range(settings.num_variants if name == "train" else 1)
            if (case := _case(row, library, settings, seed=seed, variant=variant))
        ]
        for name, rows in splits.items()
    }
    if not examples.get("train"):
        raise RecipeInvalid("no answer stands word for word in a passage of the documents: raft has nothing to read")
    return examples


def not_found(asked: Mapping[str, Sequence[Asked]], used: Mapping[str, Collection[str]]) -> tuple[Finding, ...]:
    """Returns a finding about the questions that became no example, where there are such."""
    lost = [row for name, rows in asked.items() for row in rows if row.id not in used[name]]
    text = f"{len(lost):,} questions were left out: no passage holds an answer of theirs word for word."
    places = list(dict.fromkeys(row.origin or row.id for row in lost))
    return (Finding.at("NOT_FOUND", text, places),) if lost else ()


def _case(row: Asked, library: Library, settings: Settings, *, seed: int, variant: int) -> Example | None:
    rng = Random(f"{seed}/{row.id}/{variant}")  # noqa: S311  (choice of passages)
    num_passages = rng.randint(2, settings.max_passages)
    golds, others = library.bring(row, rng, count=settings.max_passages + 2)
    if row.answers and not golds:
        return None
    absent = rng.random() < settings.absent_share
    if not golds or absent:
        chosen = others[:num_passages]
    else:
        rest = rng.sample(others, min(num_passages - 1, len(others)))
        rest.sort(key=others.index)
        place = min(len(rest), rng.choices(*_PLACES)[0])
        chosen = [*rest[:place], golds[0], *rest[place:]]
    if not chosen:
        return None
    answers = row.answers if golds and not absent else (prompts.ABSTENTION,)
    titled = rng.random() < 0.5
    texts = [prompts.passage(chunk.title, chunk.text) if titled and chunk.title else chunk.text for chunk in chosen]
    return Example(
        id=row.id if not variant else f"{row.id}~{variant}",
        group=row.group,
        messages=tuple(prompts.reading(row.question, texts)),
        answer=answers[0],
        golds=answers,
        kind=ANSWERABLE if answers is row.answers else UNANSWERABLE,
    )


def companions(
    recipe: str,
    splits: Mapping[str, Sequence[Asked]],
    documents: Sequence[Document],
    *,
    seed: int,
    settings: Settings | None = None,
) -> dict[str, list[Example]]:
    """Returns the same questions as the other recipe would ask them: with passages for closed-book, without for raft.

    They are for the arms of the evaluation and are never trained on. Their ids are those of the examples that they
    accompany. Without documents a closed-book dataset has none. No passage is taken away from them.
    """
    if recipe == "raft":
        return {name: [closed_book.example(row, row.question, row.id) for row in rows] for name, rows in splits.items()}
    if not documents:
        return {}
    settings = replace(settings or Settings(), absent_share=0)
    library = Library(documents, settings)
    return {
        name: [
            _case(row, library, settings, seed=seed, variant=0) or _without_gold(row, library, settings, seed=seed)
            for row in rows
        ]
        for name, rows in splits.items()
    }


def _without_gold(row: Asked, library: Library, settings: Settings, *, seed: int) -> Example:
    """Returns the question with the passages that a search brings, though none holds an answer word for word."""
    rng = Random(f"{seed}/{row.id}/without")  # noqa: S311  (choice of passages)
    _, others = library.bring(row, rng, count=rng.randint(2, settings.max_passages))
    texts = [prompts.passage(chunk.title, chunk.text) if chunk.title else chunk.text for chunk in others]
    found = closed_book.example(row, row.question, row.id)
    return replace(found, messages=tuple(prompts.reading(row.question, texts)), kind=ANSWERABLE)
