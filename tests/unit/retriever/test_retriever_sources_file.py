from pathlib import Path

import pytest

from services.retriever.sources.config import SourceConfig, load_sources
from tandem.errors import ConfigError

GOOD = """
# what changes by the hour
[[source]]
name = "bulletins"
tenant = "halden"
groups = ["claims", "a", "a"]
kind = "folder"
path = "/srv/bulletins"
delete_missing = true

[[source]]
name = "prices"
tenant = "halden"
kind = "feed"
format = "jsonl"
url = "https://intranet.example/prices.jsonl"
every_seconds = 10
"""


def load(tmp_path: Path, text: str) -> list[SourceConfig]:
    (tmp_path / "sources.toml").write_text(text)
    return load_sources(tmp_path / "sources.toml")


def test_sources_are_read_with_their_defaults(tmp_path: Path) -> None:
    folder, feed = load(tmp_path, GOOD)
    assert (folder.groups, folder.every_seconds, folder.delete_missing) == (("a", "claims"), 2.0, True)
    assert (feed.groups, feed.every_seconds, feed.delete_missing) == ((), 10.0, False)
    assert load(tmp_path, "") == []
    assert load_sources(None) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"bulletins"', '"Bulletins"', r"line 4: name must have 1 to 32 characters"),
        ('"prices"', '"bulletins"', r'line 12: name "bulletins" is taken .* choose another'),
        ("delete_missing", "delete_mising", r"line 9: delete_mising is not known; did you mean delete_missing\?"),
        ('tenant = "halden"\nkind = "feed"', 'kind = "feed"', r"line 11: tenant is missing; add it"),
        ("every_seconds = 10", 'every_seconds = "10"', r"line 17: every_seconds must be a number"),
        ("every_seconds = 10", "every_seconds = 0", r"line 17: every_seconds must be 1 to 86400"),
        ("every_seconds = 10", "every_seconds = nan", r"line 17: every_seconds must be 1 to 86400"),
        ('["claims", "a", "a"]', '"claims"', r"line 6: groups must be a list of texts"),
        ('"folder"', '"mail"', r'line 7: kind must be "folder" or "feed"'),
        ('"folder"', "1", r"line 7: kind must be a text"),
        ('"/srv/bulletins"', '"bulletins"', r"line 8: path must be the absolute path"),
        ('path = "/srv/bulletins"', "", r"line 3: path must be the absolute path"),
        ('"jsonl"', '"atom"', r'line 15: format must be "rss" \(which reads Atom too\) or "jsonl"'),
        ("https://intranet.example/prices.jsonl", "file:///etc/passwd", r"line 16: url must be like https://"),
        ("https://intranet.example/prices.jsonl", "https://me:pw@x/", r"line 16: url must .* without a user"),
        ("https://intranet.example/prices.jsonl", "https://[", r"line 16: url must be like"),
        ('path = "/srv/bulletins"', 'path = "/srv/bulletins"\nurl = "https://x/"', r"line 9: url is for feeds; remove"),
        ("[[source]]", "[[sources]]", r"holds sources beside \[\[source\]\]"),
        ('"halden"', '"halden', r"is not TOML: .*line 5"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_to_do(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, GOOD.replace(old, new, 1) if new != '"halden' else GOOD.replace(old, new))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"RETRIEVER_SOURCES_FILE: cannot read .*none\.toml"):
        load_sources(tmp_path / "none.toml")
