"""The client SDK: one class for each service, blocking and asynchronous, over the contracts of tandem.v1.

    from tandem.client import RouterClient

    with RouterClient("127.0.0.1:7700", token=token) as router:
        answer = router.ask("How long do I have to report a theft?", policy="cascade")
        print(answer.text, [citation.quote for citation in answer.citations])

Requests are built from keyword arguments; responses are the messages of tandem.v1. Every failure is raised as one of
tandem.errors, with the server's reason. Every call has a deadline: `timeout` in seconds, else the client's default.
"""

from tandem.client.asynchronous import (
    AsyncEmbedderClient,
    AsyncGeneratorClient,
    AsyncRetrieverClient,
    AsyncRouterClient,
)
from tandem.client.blocking import (
    EmbedderClient,
    GeneratorClient,
    RetrieverClient,
    RouterClient,
)
from tandem.client.records import AsyncAuditClient, AsyncFeedbackClient, AuditClient, FeedbackClient
from tandem.client.requests import Turns, Upload, Wish

__all__ = [
    "AsyncAuditClient",
    "AsyncEmbedderClient",
    "AsyncFeedbackClient",
    "AsyncGeneratorClient",
    "AsyncRetrieverClient",
    "AsyncRouterClient",
    "AuditClient",
    "EmbedderClient",
    "FeedbackClient",
    "GeneratorClient",
    "RetrieverClient",
    "RouterClient",
    "Turns",
    "Upload",
    "Wish",
]
