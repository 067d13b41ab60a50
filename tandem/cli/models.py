"""`tandem embed`, `generate` and `score`: the models themselves, without a policy around them."""

import sys
from typing import Annotated

import typer

from tandem.cli.output import AsJson, console, print_json, printable
from tandem.cli.session import As, target
from tandem.client import EmbedderClient, GeneratorClient
from tandem.v1 import generator_service_pb2 as generator


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("embed")(embed)
    app.command("generate")(generate)
    app.command("score")(score)


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
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token: the default, but 1 for samples.", min=0, max=2)
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Draw this many answers, 2 to 16, and tell how far they disagree.", min=0, max=16)
    ] = 0,
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Generate text from the base model or an adapter, as it comes."""
    request = generator.GenerateRequest(
        chat=_said(prompt),
        adapter=adapter,
        sampling=generator.Sampling(max_tokens=max_tokens, temperature=temperature),
    )
    to = target("generator", principal)
    with GeneratorClient(to.address, token=to.token, timeout=to.timeout) as client:
        if samples:
            _show_samples(client.sample(request, num_samples=samples), as_json=as_json)
            return
        if as_json:
            print_json(client.generate(request))
            return
        for event in client.stream(request):
            if event.HasField("delta"):
                sys.stdout.write(printable(event.delta.text))
                sys.stdout.flush()
    print()


def score(
    prompt: Annotated[str, typer.Argument(help="What to say to the model, as the user's turn.")],
    answers: Annotated[list[str], typer.Argument(help="Answers whose likelihood is wanted.")],
    adapter: Annotated[str, typer.Option(help="Adapter on top of the base model.")] = "",
    principal: As = None,
    as_json: AsJson = False,
) -> None:
    """Tell how likely the model finds each of the answers, the likeliest first."""
    to = target("generator", principal)
    items = [generator.ScoreItem(chat=_said(prompt), continuation=answer) for answer in answers]
    with GeneratorClient(to.address, token=to.token, timeout=to.timeout) as client:
        response = client.score(items, adapter=adapter)
    if as_json:
        print_json(response)
        return
    for item, answer in sorted(zip(response.scores, answers, strict=True), key=lambda row: -row[0].sum_logprob):
        mean = item.sum_logprob / max(1, item.num_tokens)
        sys.stdout.write(f"{item.sum_logprob:10.3f} nats, {mean:7.3f} a token  {printable(answer)}\n")


def _said(text: str) -> generator.ChatPrompt:
    return generator.ChatPrompt(messages=[generator.ChatMessage(role="user", content=text)])


def _show_samples(response: generator.SampleResponse, *, as_json: bool) -> None:
    if as_json:
        print_json(response)
        return
    for item in response.samples:
        sys.stdout.write(f"[{item.cluster}] {printable(item.text).strip()}\n")
    console.print(
        f"[dim]{response.num_clusters} different answers, semantic entropy {response.semantic_entropy:.3f} nats[/]"
    )
