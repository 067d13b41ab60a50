"""Folders of tiny cross-encoders with random weights, as transformers writes them."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(50))]


def write_cross_encoder(folder: Path, *, labels: int, position: int = 32) -> Path:
    """Writes a BERT that reads two texts of the words w0 to w49, at most ``position`` tokens together."""
    folder.mkdir()
    names = [f"label {number}" for number in range(labels)]
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=position, num_labels=labels, id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)}, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": position}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder
