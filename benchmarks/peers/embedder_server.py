"""Serves sentence-transformers over HTTP as its users do: FastAPI, one endpoint, one process."""

import argparse
import importlib
from typing import Any

fastapi: Any = importlib.import_module("fastapi")
pydantic: Any = importlib.import_module("pydantic")
uvicorn: Any = importlib.import_module("uvicorn")
torch: Any = importlib.import_module("torch")
package: Any = importlib.import_module("sentence_transformers")


class Request(pydantic.BaseModel):  # type: ignore[misc]
    """Is what a client sends."""

    texts: list[str]


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = package.SentenceTransformer(options.model, device="cpu")
    encoder.max_seq_length = 256
    app = fastapi.FastAPI()

    @app.get("/health")  # type: ignore[untyped-decorator]
    def health() -> dict[str, str]:
        return {"version": f"sentence-transformers {package.__version__} behind fastapi {fastapi.__version__}"}

    @app.post("/embed")  # type: ignore[untyped-decorator]
    def embed(request: Request) -> list[list[float]]:  # not async: FastAPI then runs it in a thread
        found: list[list[float]] = encoder.encode(request.texts, normalize_embeddings=True).tolist()
        return found

    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", timeout_keep_alive=600)


if __name__ == "__main__":
    main()
