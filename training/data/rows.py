"""Defines the rows that users may bring: five kinds, each with the fields it needs and those it may have.

    instruction       instruction, output; input
    question_answer   question, answer or answers; context, title, document_id, paraphrases, unanswerable
    classification    text, label
    style             prompt, text
    document          document_id, text; title

Every kind may also have id, group (what must not be torn apart: a document, a site, a thread), category (for scores
by category) and split (train, validation or test, where the split is given). Other fields are left out, and told.
"""

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

MAX_PARAPHRASES = 200
"""Of one row; each is compared with all other rows."""
_ALLOWED_CONTROLS = frozenset("\n\t")


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in _ALLOWED_CONTROLS), None)
    if bad is not None:
        raise ValueError(f"holds U+{ord(bad):04X}, which is no character of a text")
    return text


def _filled(text: str) -> str:
    # Control and formatting characters and blanks show nothing.
    if all(unicodedata.category(character)[0] in "CZ" for character in text):
        raise ValueError("is empty")
    return text


Text = Annotated[str, AfterValidator(_clean)]
Filled = Annotated[str, AfterValidator(_clean), AfterValidator(_filled)]
Name = Annotated[str, AfterValidator(_clean), Field(max_length=500)]


class Row(BaseModel):
    """Is one row of a user's data, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)
    kind: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other names that a field may have in a file."""
    asks: ClassVar[tuple[str, ...]]
    """The fields that the answer depends on."""
    answers_in: ClassVar[str] = ""
    text_fields: ClassVar[tuple[str, ...]]
    """All fields that hold text."""
    shown_fields: ClassVar[tuple[str, ...]] = ()
    """Short fields that a model is shown as well: a title, a label."""

    id: Name = ""
    """Unique; derived from the content where the file gives none."""
    group: Name = ""
    """What must not be torn apart; the row alone where the file gives none."""
    category: Name = ""
    split: Literal["", "train", "validation", "test"] = ""
    origin: str = ""
    """File and line; set by the import, never read from the file."""

    @classmethod
    def field_names(cls) -> frozenset[str]:
        """Returns the names that a file may use for this kind."""
        return (frozenset(cls.model_fields) | frozenset(cls.aliases)) - {"origin"}

    def own_group(self) -> str:
        """Returns the group that the row belongs to where it names none; "" for the row alone."""
        return str(getattr(self, "document_id", ""))

    def asked(self) -> str:
        """Returns what the answer depends on: two rows that ask the same should not answer differently."""
        return "\n".join(filter(None, (getattr(self, name) for name in self.asks)))

    def answered(self) -> tuple[str, ...]:
        """Returns the answers; none where the row has nothing to answer."""
        return _tuple(getattr(self, self.answers_in)) if self.answers_in else ()

    def wordings(self) -> tuple[tuple[str, str], ...]:
        """Returns each wording of what is asked, with the passage that it is asked about or ""."""
        return ((self.asked(), ""),)

    def compared(self) -> tuple[tuple[str, ...], str]:
        """Returns the wordings by which near-duplicates are found, and the passage that belongs to each of them."""
        return (self.asked(),), ""

    def texts(self) -> dict[str, str]:
        """Returns all texts of the row by field; empty ones are left out."""
        found = {name: "\n".join(_tuple(getattr(self, name))) for name in self.text_fields}
        return {name: text for name, text in found.items() if text}

    def shown(self) -> tuple[str, ...]:
        """Returns all that a model may come to see of the row."""
        return (*self.texts().values(), *filter(None, (getattr(self, name) for name in self.shown_fields)))

    def content_hash(self) -> str:
        """Returns 16 hexadecimal digits that two rows share only if they hold the same."""
        content = self.model_dump(exclude={"id", "group", "category", "split", "origin"})
        text = json.dumps([self.kind, content], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Instruction(Row):
    """Is an instruction with what should come out of it."""

    kind = "instruction"
    asks = ("instruction", "input")
    answers_in = "output"
    text_fields = ("instruction", "input", "output")
    instruction: Filled
    input: Text = ""
    output: Filled

    def compared(self) -> tuple[tuple[str, ...], str]:
        """Returns the input alone: one instruction goes with many, and would make short inputs look alike."""
        return (self.input or self.instruction,), ""


class QuestionAnswer(Row):
    """Is a question with the answers that count as right; with the passage that holds them, where there is one."""

    kind = "question_answer"
    asks = ("question", "context")
    answers_in = "answers"
    text_fields = ("question", "paraphrases", "answers", "context")
    shown_fields = ("title",)
    aliases = {"answer": "answers", "is_impossible": "unanswerable"}
    question: Filled
    answers: tuple[Filled, ...] = ()
    """The first is the one to learn; empty only where unanswerable."""
    paraphrases: Annotated[tuple[Filled, ...], Field(max_length=MAX_PARAPHRASES)] = ()
    """Other wordings of the question."""
    context: Text = ""
    title: Name = ""
    document_id: Name = ""
    unanswerable: bool = False

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, fields: Any, info: ValidationInfo) -> Any:
        if not isinstance(fields, dict):
            return fields
        listed = _cell if info.context == IN_TABLE else _listed
        found = dict(fields)
        one, many = found.pop("answer", None), listed(found.get("answers", []))
        answers = many if one is None else [*listed(one), *(m for m in many if m != one)]
        if "is_impossible" in found:
            found["unanswerable"] = found.pop("is_impossible")
        unanswerable = str(found.get("unanswerable", "")).strip().lower() in ("true", "1", "yes")
        found["answers"] = [answer for answer in answers if answer != ""] if unanswerable else answers
        if "paraphrases" in found:
            found["paraphrases"] = listed(found["paraphrases"])
        return found

    @model_validator(mode="after")
    def _answers_match(self) -> "QuestionAnswer":
        if self.unanswerable and self.answers:
            raise ValueError("an unanswerable question has an answer")
        if not self.unanswerable and not self.answers:
            raise ValueError("an answer is missing; give answer, answers, or unanswerable: true")
        return self

    def wordings(self) -> tuple[tuple[str, str], ...]:
        """Returns each wording of the question, with the passage it is asked about."""
        return tuple((wording, self.context) for wording in (self.question, *self.paraphrases))

    def compared(self) -> tuple[tuple[str, ...], str]:
        """Returns the wordings of the question, and the passage it is asked about."""
        return (self.question, *self.paraphrases), self.context

    def own_group(self) -> str:
        """Returns the document's id, else a name for the passage: what is asked about it lies in one split."""
        if self.document_id or not self.context:
            return self.document_id
        return f"passage-{hashlib.sha256(self.context.encode()).hexdigest()[:16]}"


class Labelled(Row):
    """Is a text with its label."""

    kind = "classification"
    asks = ("text",)
    answers_in = "label"
    text_fields = ("text",)
    shown_fields = ("label",)
    text: Filled
    label: Annotated[Filled, Field(max_length=200)]


class Style(Row):
    """Is what a text is to convey, with the text in the house's voice."""

    kind = "style"
    asks = ("prompt",)
    answers_in = "text"
    text_fields = ("prompt", "text")
    aliases = {"brief": "prompt"}
    prompt: Filled
    text: Filled

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "brief" in fields and "prompt" not in fields:
            return {("prompt" if name == "brief" else name): value for name, value in fields.items()}
        return fields


class Document(Row):
    """Is a raw document."""

    kind = "document"
    asks = ("text",)
    text_fields = ("text",)
    shown_fields = ("title",)
    document_id: Annotated[Name, AfterValidator(_filled)]
    title: Name = ""
    text: Filled


IN_TABLE = "table"
"""Context of the validation for cells of a table, which may hold a list as JSON."""
KINDS: Mapping[str, type[Row]] = {row.kind: row for row in (Instruction, QuestionAnswer, Labelled, Style, Document)}


def _tuple(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _cell(value: Any) -> list[Any]:
    """Returns the list that a cell of a table holds as JSON, or its text as the only item."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return _listed(value)
    try:
        found = json.loads(value, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return [value]
    return found if isinstance(found, list) else [value]
