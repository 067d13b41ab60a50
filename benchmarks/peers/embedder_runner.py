"""Embeds in this process, with what the environment of the peers has: sentence-transformers, ONNX Runtime, OpenVINO.

A JSON object a line: {"texts": [...], "mode": "single" | "bulk"} is answered by {"seconds": [...], "vectors": base64 of
32-bit floats}; single embeds one text after the other, bulk all at once. The end of input ends the runner.
"""

import argparse
import base64
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# By name, because only the peers' environment has them all.
numpy: Any = importlib.import_module("numpy")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

MAX_TOKENS = 256
_BATCH_TOKENS, _BATCH = 2048, 32
Embed = Callable[[Sequence[str]], Any]


def sentence_transformers(model: Path, precision: str, _: int) -> tuple[Embed, str]:
    """Returns `encode` as it comes."""
    package: Any = importlib.import_module("sentence_transformers")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    encoder = package.SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": dtype})
    encoder.max_seq_length = MAX_TOKENS

    def embed(texts: Sequence[str]) -> Any:
        found = encoder.encode(list(texts), batch_size=_BATCH, convert_to_tensor=True, normalize_embeddings=True)
        return found.float().numpy()

    return embed, f"sentence-transformers {package.__version__}"


def onnxruntime(model: Path, precision: str, threads: int) -> tuple[Embed, str]:
    """Returns ONNX Runtime; int8 is its dynamic quantisation."""
    package: Any = importlib.import_module("onnxruntime")
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        file = Path(folder, "model.onnx")
        axes = {name: {0: "b", 1: "t"} for name in ("ids", "mask", "hidden")}
        torch.onnx.export(
            _last_hidden(model), _example(), str(file), input_names=["ids", "mask"], output_names=["hidden"],
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
        if precision == "int8":
            quantization: Any = importlib.import_module("onnxruntime.quantization")
            whole, file = file, Path(folder, "int8.onnx")
            quantization.quantize_dynamic(str(whole), str(file), weight_type=quantization.QuantType.QInt8)
        options = package.SessionOptions()
        options.intra_op_num_threads = threads
        session = package.InferenceSession(str(file), options)
    run = _batched(model, lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0])
    return run, f"onnxruntime {package.__version__}"


def openvino(model: Path, precision: str, threads: int) -> tuple[Embed, str]:
    """Returns OpenVINO; int8 is nncf's, calibrated on the lines of this folder's README."""
    package: Any = importlib.import_module("openvino")
    with torch.no_grad():
        graph = package.convert_model(_last_hidden(model), example_input=_example())
    if precision == "int8":
        nncf: Any = importlib.import_module("nncf")
        tokenize, lines = _tokenizer(model), (Path(__file__).parents[1] / "README.md").read_text().splitlines()
        texts = [line for line in lines if len(line) > 20]
        data = nncf.Dataset(texts, lambda text: list(_padded(tokenize([text])[0])))
        graph = nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts))
    hint = "f32" if precision == "fp32" else "bf16"
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = package.Core().compile_model(graph, "CPU", options)
    return _batched(model, lambda ids, mask: compiled([ids, mask])[0]), f"openvino {package.__version__}"


ENGINES = {"sentence-transformers": sentence_transformers, "onnxruntime": onnxruntime, "openvino": openvino}


def _example() -> tuple[Any, Any]:
    return torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long)


def _last_hidden(folder: Path) -> Any:
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()

    class Hidden(torch.nn.Module):  # type: ignore[misc]
        def forward(self, ids: Any, mask: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask).last_hidden_state

    wrapped = Hidden()
    wrapped.model = model
    return wrapped


def _tokenizer(folder: Path) -> Callable[[Sequence[str]], list[list[int]]]:
    tokenizers: Any = importlib.import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def _padded(*rows: list[int]) -> tuple[Any, Any]:
    longest = max(map(len, rows))
    ids, mask = numpy.zeros((len(rows), longest), numpy.int64), numpy.zeros((len(rows), longest), numpy.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    return ids, mask


def _batched(folder: Path, run: Callable[[Any, Any], Any]) -> Embed:
    """Returns what a careful user writes: batches by length under a budget of tokens, then the mean."""
    tokenize = _tokenizer(folder)

    def embed(texts: Sequence[str]) -> Any:
        rows = tokenize(texts)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found: list[Any] = [None] * len(rows)
        while order:
            size = 1
            while size < len(order) and len(rows[order[size]]) * (size + 1) <= _BATCH_TOKENS:
                size += 1
            places, order = order[:size], order[size:]
            ids, mask = _padded(*(rows[place] for place in places))
            pooled = (run(ids, mask) * mask[:, :, None]).sum(1)
            for place, vector in zip(places, pooled, strict=True):
                found[place] = vector / numpy.linalg.norm(vector)
        return numpy.array(found, dtype=numpy.float32)

    return embed


def main() -> None:
    """Answers the driver until its end of the pipe closes."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    embed, version = ENGINES[options.engine](options.model, options.precision, options.threads)
    print(json.dumps({"ready": {"version": version}}), file=output, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        parts = [[text] for text in job["texts"]] if job["mode"] == "single" else [job["texts"]]
        seconds, vectors = [], []
        for part in parts:
            begun = time.perf_counter()
            vectors.append(embed(part))
            seconds.append(time.perf_counter() - begun)
        data = base64.b64encode(numpy.concatenate(vectors).astype(numpy.float32).tobytes()).decode()
        print(json.dumps({"seconds": seconds, "vectors": data}), file=output, flush=True)


if __name__ == "__main__":
    main()
