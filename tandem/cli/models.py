"""`tandem embed`, `generate` and `adapters`: the models themselves, without a policy around them."""

import sys
from typing import Annotated

import typer

from tandem.cli.output import AsJson, as_dict, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import EmbedderClient, GeneratorClient
from tandem.v1 import generator_service_pb2 as generator


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("embed")(embed)
    app.command("generate")(generate)
    app.command("adapters")(adapters)


def embed(
    texts: Annotated[list[str], typer.Argument(help="What to embed.")],
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Turn texts into dense vectors; without --json only their beginnings are shown."""
    to = target("embedder", principal)
    with EmbedderClient(to.address, token=to.token, timeout=to.timeout) as client:
        response = client.embed(texts)
    if as_json:
        print_json(response)
        return
    for text, item in zip(texts, response.embeddings, strict=True):
        start = ", ".join(f"{value:+.4f}" for value in item.values[:4])
        console.print(f"({start}, …) [dim]{len(item.values)} dimensions[/] {text[:60]}")


def generate(
    prompt: Annotated[str, typer.Argument(help="What to say to the model, as the user's turn.")],
    adapter: Annotated[str, typer.Option(help="Adapter on top of the base model.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens to produce.", min=1, max=4096)] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0, max=2)] = 0.0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Generate text from the base model or an adapter, as it comes."""
    request = generator.GenerateRequest(
        chat=generator.ChatPrompt(messages=[generator.ChatMessage(role="user", content=prompt)]),
        adapter=adapter,
        sampling=generator.Sampling(max_tokens=max_tokens, temperature=temperature),
    )
    to = target("generator", principal)
    with GeneratorClient(to.address, token=to.token, timeout=to.timeout) as client:
        if as_json:
            print_json(client.generate(request))
            return
        for event in client.stream(request):
            if event.HasField("delta"):
                sys.stdout.write(printable(event.delta.text))
                sys.stdout.flush()
    print()


def adapters(principal: As = None, as_json: AsJson = False) -> None:
    """List the adapters that you may use, and the base model."""
    to = target("generator", principal)
    with GeneratorClient(to.address, token=to.token, timeout=to.timeout) as client:
        model = client.get_model()
        listed = list(client.list_adapters())
    if as_json:
        print_json({"model": as_dict(model), "adapters": [as_dict(row) for row in listed]})
        return
    console.print(f"base model [bold]{model.lineage.model}[/] ({model.precision}, {model.max_context_tokens} tokens)")
    for row in listed:
        console.print(f"  {row.name}: rank {row.rank}, {row.num_parameters:,} weights, sha256 {row.sha256[:12]}…")
