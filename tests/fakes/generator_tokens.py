"""Two real tokenizers, trained in a moment: one on bytes, one on characters that falls back to bytes."""

import json
from functools import lru_cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from services.generator.backend.tokenizer import HfTokenizer

CHAT_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_TEXT = [
    "The claim must be reported within 25 days. The excess is 500 €, the answer: yes.\n\nQuestion: is it covered?",
    "Die Prüfung läuft über Straßen; ça va, naïve café, Ελλάδα, Привет мир, שלום עולם, مرحبا بالعالم",
    "保険の対象は家財です。你好，世界。안녕하세요 👩‍👩‍👧‍👦 😀😃😄 🇩🇪🇫🇷 👍🏽 e\u0301 ａｂｃ \u202eabc\u202c",
]


@lru_cache
def on_bytes() -> HfTokenizer:
    """Returns a byte-level tokenizer whose tokens cross the borders of characters."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(_TEXT * 3, _trainer(initial_alphabet=alphabet, special_tokens=list(CONTROLS)))
    return _wrapped(inner)


@lru_cache
def on_characters() -> HfTokenizer:
    """Returns a tokenizer in the way of sentencepiece: blanks are marked, unknown characters are written in bytes."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", *CONTROLS, *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(_TEXT[:1], _trainer(special_tokens=pieces))
    # Bytes are ordinary tokens, not special ones: without this, decoding would leave them out.
    loaded: dict[str, Any] = json.loads(inner.to_str())
    loaded["added_tokens"] = [token for token in loaded["added_tokens"] if not token["content"].startswith("<0x")]
    return _wrapped(Tokenizer.from_str(json.dumps(loaded)))


def _trainer(**wishes: Any) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(vocab_size=700, show_progress=False, **wishes)


def _wrapped(inner: Tokenizer) -> HfTokenizer:
    inner.add_special_tokens([AddedToken(token, special=True) for token in CONTROLS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=CONTROLS[1], bos_token=CONTROLS[0])
    tokenizer.chat_template = CHAT_TEMPLATE
    return HfTokenizer(tokenizer, end_tokens=frozenset({tokenizer.convert_tokens_to_ids(CONTROLS[1])}))
