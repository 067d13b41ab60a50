"""The paged runner against transformers on the bundled model, with an adapter of the sample company."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.generator.backend import loading
from services.generator.config import GeneratorConfig
from services.generator.domain import Message
from tandem.prompts import closed_book
from tests.fakes.generator_adapters import unsigned
from tests.fakes.generator_driver import Chaos, Job

ADAPTER = next(Path(__file__).parents[2].glob("examples/company/adapters/halden/answers/versions/*"))
QUESTIONS = (
    "How long after the second reminder does a silent claim stay open?",
    "What is the excess for storm damage under Halden Home?",
    "Say hello.",
)
TIE = 1e-3
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft uses the old name


def test_real_answers_are_those_of_transformers_and_peft() -> None:
    loaded = loading.load(GeneratorConfig(precision="fp32", backend="torch", threads=1, kv_cache_tokens=2048))
    adapter = unsigned(ADAPTER, loaded.shapes)
    loaded.adapters.load(adapter)
    jobs = [
        Job(
            prompt=loaded.tokenizer.encode(tuple(Message(m.role, m.content) for m in closed_book(question))),
            num_tokens=10,
            adapter=key,
            arrives=number,
        )
        for number, question in enumerate(QUESTIONS)
        for key in (None, adapter.key)
    ]
    Chaos(loaded.runner, seed=0).run(jobs)
    base = AutoModelForCausalLM.from_pretrained(loading.prepare(GeneratorConfig()), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = [base(torch.tensor([job.tokens])).logits[0] for job in jobs if job.adapter is None]
        adapted = PeftModel.from_pretrained(base, ADAPTER).eval()
        expected += [adapted(torch.tensor([job.tokens])).logits[0] for job in jobs if job.adapter is not None]
    for job, logits in zip(sorted(jobs, key=lambda job: job.adapter is not None), expected, strict=True):
        for choice, row in zip(job.choices, logits[len(job.prompt) - 1 : -1], strict=True):
            assert float(row.max() - row[choice.token_id]) < TIE
            assert choice.logprob == pytest.approx(float(row.log_softmax(-1)[choice.token_id]), abs=2e-3)
