"""The model's own tokenizer and chat template, behind the engine's port."""

from collections.abc import Sequence
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from services.generator.domain import Message, Prompt
from tandem.errors import FailedPrecondition, InvalidInput


class HfTokenizer:
    """Encodes prompts and decodes tokens with a Hugging Face tokenizer.

    May be used from several threads: nothing of the tokenizer is switched on
    or off for a call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, end_tokens: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        controls = {*tokenizer.all_special_tokens, *(token.content for token in added.values())}
        # The longest first, so that none is found within what is left of another.
        self._controls = sorted((token for token in controls if len(token) > 1), key=lambda token: (-len(token), token))
        self.vocabulary_size: int = max([len(tokenizer), *(number + 1 for number in added)])
        """One more than the greatest token id that encode returns."""
        self.end_tokens = end_tokens

    def encode(self, prompt: Prompt) -> list[int]:
        """Returns the prompt's tokens; a chat is rendered with the template and the assistant's turn opened."""
        text = prompt if isinstance(prompt, str) else self._render(prompt)
        tokens: list[int] = self._tokenizer(text, add_special_tokens=isinstance(prompt, str))["input_ids"]
        return tokens

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the tokens of a text by itself; control tokens in it are broken up as in a turn of a chat."""
        tokens: list[int] = self._tokenizer(self._plain(text), add_special_tokens=False)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the tokens' text, without special tokens."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _render(self, prompt: Sequence[Message]) -> str:
        if not self._tokenizer.chat_template:
            raise FailedPrecondition("the model has no chat template; send a text prompt", reason="NO_CHAT_TEMPLATE")
        chat = [{"role": turn.role, "content": self._plain(turn.content)} for turn in prompt]
        try:
            text: str = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            raise InvalidInput.of("chat.messages", "do not fit the model's chat template") from error
        return text

    def _plain(self, content: str) -> str:
        """Breaks up control tokens, so that a user or a passage cannot open another speaker's turn."""
        for token in self._controls:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content


def load_tokenizer(folder: Path) -> HfTokenizer:
    """Loads the tokenizer of a model folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ends = {tokenizer.eos_token_id}
    if (folder / "generation_config.json").is_file():
        listed = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        ends |= set(listed) if isinstance(listed, list) else {listed}
    return HfTokenizer(tokenizer, end_tokens=frozenset(token for token in ends if token is not None))
