"""Holds what preparation may be given and how it decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds what is read; beyond a limit the data are refused, with the limit's name in the reason."""

    max_files: int = 2_000
    """Files of all sources together."""
    max_file_bytes: int = 256 * 2**20
    """Size of one file, after decompression where it ends in .gz."""
    max_line_bytes: int = 4 * 2**20
    """Length of one line of JSON Lines, and of one field of CSV."""
    max_rows: int = 500_000
    """Rows of all files together."""
    max_row_characters: int = 200_000
    """All texts of one row together."""
    max_problems: int = 50
    """Bad rows that are told one by one; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Says how rows are split and what is done about doubtful ones."""

    validation_share: float = 0.1
    """Share of the groups (or rows) that early stopping and the choice of prompts may look at; 0 to below 1."""
    test_share: float = 0.1
    """Share of the groups (or rows) that only the final comparison looks at; 0 to below 1."""
    split: Literal["group", "within_group"] = "group"
    """"group": a group lies in one split, so that the test asks about unseen documents. "within_group": each group's
    rows are spread over the splits and train has at least one of them, so that the test asks known things anew."""
    near_duplicates: Literal["join", "refuse", "report"] = "join"
    """What happens to groups that nearly repeat each other: they go to one split, the data are refused where a copy
    lies in another split, or it is only told."""
    near_duplicate_similarity: float = 0.8
    """Jaccard similarity of character 5-grams from which two texts count as nearly the same."""
    contradictions: Literal["keep", "drop", "refuse"] = "keep"
    """What happens to rows that answer the same question differently."""
    personal_data: Literal["report", "drop", "refuse"] = "report"
    """What happens to rows in which personal data were found."""
    phone_regions: tuple[str, ...] = ("US", "GB")
    """Countries whose national way of writing telephone numbers is recognised, beside the international one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field to the name that it has in the files, where the names differ: {"question": "query"}.
    {"id": ""} leaves our field id out."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        shares = (self.validation_share, self.test_share)
        if not all(0 <= share < 1 for share in shares) or sum(shares) >= 1:
            raise ValueError("validation_share and test_share are from 0 to below 1, and together below 1")
        if not 0.3 <= self.near_duplicate_similarity <= 1:
            raise ValueError("near_duplicate_similarity is from 0.3 to 1")
