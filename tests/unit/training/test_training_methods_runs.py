"""Runs from start to end on a tiny model: what comes out, that it comes out again, and what is refused."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.training_runs import method, run, write_inputs
from training.examples import read_dataset
from training.methods import Journal, MethodError, Progress, load_trained, models, read_run
from training.methods.batches import encode_all, shared_prefix
from training.methods.loss import summed_loss


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


def loss_of(model: Any, folder: Path) -> float:
    tokenizer = models.load_tokenizer(folder / "base")
    rows = encode_all(tokenizer, read_dataset(folder / "dataset").validation, max_tokens=256)
    with torch.no_grad():
        loss, count = summed_loss(model, rows, shared_prefix(rows))
    return float(loss) / count


@pytest.mark.parametrize("name", ["lora", "prefix", "full"])
def test_a_run_learns_and_what_it_wrote_has_learnt_it(inputs: Path, name: str) -> None:
    heard: list[Progress] = []
    done = run(inputs, inputs / "run", method(name), on_progress=heard.append)
    result = done.run.result
    assert result["stopped"] == "finished"
    assert result["validation_loss"] < result["validation_loss_before"]
    assert (heard[-1].step, heard[-1].num_steps, heard[-1].remaining_s) == (12, 12, 0)
    assert (heard[0].step, heard[0].validation_loss) == (0, result["validation_loss_before"])
    trained = load_trained(read_run(inputs / "run"))
    assert loss_of(trained.model, inputs) == pytest.approx(result["validation_loss"], rel=0.1)
    if name != "full":
        with trained.base():
            base_model = trained.model if name == "lora" else trained.model.get_base_model()
            assert loss_of(base_model, inputs) == pytest.approx(result["validation_loss_before"], rel=0.1)


def test_a_lora_adapter_is_in_pefts_layout(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method("lora"))
    weights = load_file(done.weights / "adapter_model.safetensors")
    assert weights["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"].shape == (48, 4)
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    config = json.loads((done.weights / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 32.0, "base")
    assert sum(weight.numel() for weight in weights.values()) == done.run.result["num_weights"]


def test_a_prefix_holds_keys_and_values_of_each_layer(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method("prefix"))
    weights = load_file(done.weights / "adapter_model.safetensors")
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"prompt_embeddings": (4, 2 * 2 * 2 * 8)}
    key = load_trained(done.run, dtype=torch.float32).model.get_prompt(1).layers[1].keys[0, 0, 2]
    torch.testing.assert_close(key, weights["prompt_embeddings"][2].view(4, 2, 8)[2, 0].float())


def test_a_full_run_writes_a_base_model_of_its_own(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method("full"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in done.weights.iterdir()}
    old, new = (load_file(folder / "model.safetensors") for folder in (inputs / "base", done.weights))
    assert {name: w.dtype for name, w in new.items()} == {name: w.dtype for name, w in old.items()}
    assert any(not torch.equal(weight, old[name]) for name, weight in new.items())
    assert models.check_base(done.weights) == done.weights


@pytest.mark.parametrize("name", ["lora", "prefix", "full"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(inputs: Path, name: str) -> None:
    first, again = (run(inputs, inputs / folder, method(name)) for folder in ("one", "two"))
    assert first.sha256 == again.sha256
    assert run(inputs, inputs / "three", method(name, seed=5)).sha256 != first.sha256


def test_a_run_can_be_made_again_from_its_record(inputs: Path) -> None:
    first = run(inputs, inputs / "one", method(epochs=2))
    record = read_run(inputs / "one")
    assert run(inputs, inputs / "two", record.method, threads=record.record["threads"]).sha256 == first.sha256
    dataset = read_dataset(inputs / "dataset")
    assert record.record["dataset"]["sha256"] == dataset.sha256
    assert record.record["dataset"]["inputs"] == {"facts.jsonl": "5" * 64}
    assert record.record["base"]["sha256"] == models.base_sha256(inputs / "base")
    assert {"torch", "transformers", "peft", "python"} <= set(record.record["versions"])
    assert record.result["energy"]["kwh"] > 0
    assert record.result["energy"]["source"] in ("metered", "estimated")


def test_a_run_without_progress_stops_early_and_keeps_its_best(inputs: Path) -> None:
    # So high a rate makes the loss on the validation split worse and worse.
    wild = method(epochs=40, learning_rate=0.5, warmup_steps=0, evaluate_steps=1, patience=2)
    done = run(inputs, inputs / "run", wild)
    result, rows = done.run.result, Journal.read(done.run.journal)
    held = [row for row in rows if "validation_loss" in row and row["step"]]
    worth = {row["step"]: (row["validation_exact"], -row["validation_loss"]) for row in held}
    assert result["stopped"] == "early"
    assert result["steps"] < result["num_steps"] == 120
    assert result["kept_step"] == max(worth, key=lambda step: worth[step]) == result["steps"] - 2
    trained = load_trained(done.run)
    assert loss_of(trained.model, inputs) == pytest.approx(result["validation_loss"], rel=0.1)


@pytest.mark.parametrize(("num_validation", "evaluations"), [(2, 10), (12, 2)])
def test_the_validation_split_is_measured_as_often_as_it_is_cheap(
    tmp_path: Path, num_validation: int, evaluations: int
) -> None:
    write_inputs(tmp_path, num_validation=num_validation)
    done = run(tmp_path, tmp_path / "run", method(epochs=4, max_batch_rows=1, evaluate_steps=0, patience=0))
    steps = [row["step"] for row in Journal.read(done.run.journal) if "validation_loss" in row]
    assert len(steps) == 1 + evaluations
    assert (steps[0], steps[-1]) == (0, 48)


def test_patience_of_none_and_the_last_weights_where_they_are_wanted(inputs: Path) -> None:
    wild = method(epochs=4, learning_rate=0.5, warmup_steps=0, evaluate_steps=1, patience=0, keep="last")
    result = run(inputs, inputs / "run", wild).run.result
    assert (result["stopped"], result["steps"], result["kept_step"]) == ("finished", 12, 12)


def test_time_that_is_up_ends_the_run_with_what_it_has(inputs: Path) -> None:
    result = run(inputs, inputs / "run", method(epochs=900, minutes=1e-6)).run.result
    assert (result["stopped"], result["steps"]) == ("time", 1)


def test_a_dataset_without_validation_ends_with_the_last_weights(tmp_path: Path) -> None:
    write_inputs(tmp_path, num_validation=0)
    result = run(tmp_path, tmp_path / "run", method()).run.result
    assert (result["validation_loss"], result["kept_step"]) == (None, 12)


@pytest.mark.parametrize(("num_validation", "words"), [(4, "before the first step"), (0, "lower learning rate")])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, num_validation: int, words: str) -> None:
    write_inputs(tmp_path, num_validation=num_validation)
    weights = load_file(tmp_path / "base/model.safetensors")
    weights["lm_head.weight"][:] = torch.inf
    save_file(weights, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MethodError, match=words):
        run(tmp_path, tmp_path / "run", method())
    assert not (tmp_path / "run/adapter").exists()


def test_too_little_memory_is_said_with_what_helps(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("training.methods.trainer.summed_loss", full)
    with pytest.raises(MethodError, match="lower max_batch_tokens"):
        run(inputs, inputs / "run", method())


def test_a_finished_folder_is_not_trained_over_and_what_came_out_is_returned_again(inputs: Path) -> None:
    first = run(inputs, inputs / "run", method())
    with pytest.raises(MethodError, match="resume it, or name another"):
        run(inputs, inputs / "run", method())
    assert run(inputs, inputs / "run", method(), resume=True).sha256 == first.sha256
    assert not (inputs / "run/checkpoints").exists()


def test_weights_that_were_changed_later_are_not_taken_for_the_runs(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method())
    with (done.weights / "adapter_model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(MethodError, match="was changed"):
        read_run(inputs / "run")


def test_another_base_model_than_the_runs_is_not_measured(inputs: Path) -> None:
    done = run(inputs, inputs / "run", method())
    with (inputs / "base/model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(MethodError, match="not the one"):
        load_trained(done.run)


def test_what_the_caller_can_mend_is_said_before_anything_is_written(inputs: Path) -> None:
    with pytest.raises(MethodError, match=r"no base model in .*nowhere"):
        run(inputs, inputs / "run", method(), base=inputs / "nowhere")
    with pytest.raises(MethodError, match="cpu, cuda"):
        run(inputs, inputs / "run", method(), device="tpu")
    with pytest.raises(MethodError, match="no run to resume"):
        run(inputs, inputs / "run", method(), resume=True)
    assert not (inputs / "run").exists()


def test_two_processes_do_not_train_into_one_folder(inputs: Path) -> None:
    (inputs / "run").mkdir()
    with (inputs / "run/.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MethodError, match="another process"):
            run(inputs, inputs / "run", method())
