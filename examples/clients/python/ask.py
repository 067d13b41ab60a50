"""Asks a Tandem router one question: python ask.py CREDENTIALS_FILE NAME "question" [TARGET]."""

import json
import sys
from pathlib import Path

from tandem.client import RouterClient
from tandem.errors import TandemError

credentials, name, question, *rest = sys.argv[1:]
token = json.loads(Path(credentials).read_text())[name]
with RouterClient(rest[0] if rest else "127.0.0.1:7700", token=token, timeout=60) as router:
    try:
        answer = router.ask(question)
    except TandemError as error:
        sys.exit(f"{error.code} ({error.reason}): {error}")
print(answer.text)
for citation in answer.citations:
    print(f'- {citation.title} ({citation.document_id}): "{citation.quote}"')
