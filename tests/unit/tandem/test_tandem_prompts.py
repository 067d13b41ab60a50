"""The words the models are told; adapters were trained on exactly these."""

from tandem.prompts import ABSTENTION, PROMPTS_VERSION, closed_book, reading


def test_closed_book_is_the_question_alone() -> None:
    messages = closed_book("What is the excess?")
    assert [message.role for message in messages] == ["system", "user"]
    assert messages[1].content == "What is the excess?"


def test_reading_numbers_the_passages_best_first() -> None:
    system, user = reading("What is the excess?", ["It is 150.", "It was 100."])
    assert ABSTENTION in system.content
    assert user.content == "[1] It is 150.\n\n[2] It was 100.\n\nQuestion: What is the excess?"


def test_the_version_is_known() -> None:
    assert PROMPTS_VERSION == 1
