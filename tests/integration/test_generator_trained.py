"""What was trained is what is served: the generator answers as the trained model of transformers and peft does."""

from pathlib import Path

import pytest
import torch

from services.generator.backend.checkpoint import Checkpoint
from services.generator.backend.llama import Llama
from services.generator.backend.runner import PagedRunner
from tests.fakes.generator_adapters import unsigned
from tests.fakes.generator_driver import Chaos, Job
from tests.fakes.training_runs import method, run, write_inputs
from training.methods import load_trained

TIE = 1e-4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft uses the old name
@pytest.mark.parametrize("name", ["lora", "prefix", "full"])
def test_the_generator_answers_as_the_trained_model_does(tmp_path: Path, name: str) -> None:
    base, _ = write_inputs(tmp_path)
    done = run(tmp_path, tmp_path / "run", method(name))
    trained = load_trained(done.run, dtype=torch.float32)
    runner = PagedRunner(
        Llama(Checkpoint(done.weights if name == "full" else base), precision="fp32", device=torch.device("cpu")),
        num_blocks=64,
        block_size=4,
    )
    prompt, key = [5, 9, 17, 33, 12, 40, 6], None
    virtual: list[int] = []
    if name != "full":
        adapter = unsigned(done.weights, runner.adapters.shapes())
        runner.adapters.load(adapter)
        key, virtual = adapter.key, list(range(-1, -1 - adapter.num_virtual, -1))
    job = Job(prompt=[*virtual, *prompt], num_tokens=12, adapter=key)
    Chaos(runner, seed=3).run([job])

    with torch.inference_mode():
        logits = trained.model(torch.tensor([[*prompt, *job.output]])).logits[0]
    for choice, row in zip(job.choices, logits[-1 - job.num_tokens : -1], strict=True):
        assert float(row.max() - row[choice.token_id]) < TIE
        assert choice.logprob == pytest.approx(float(row.log_softmax(-1)[choice.token_id]), abs=1e-3)
