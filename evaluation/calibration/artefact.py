"""Writes the artefact that the router reads: one JSON object, named by the SHA-256 of what it says.

"sha256" is that of the object without this key, with sorted keys, without blanks, in ASCII.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

SCHEMA, KIND = 1, "tandem.calibration"


def seal(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the document with schema, kind and sha256; raises ValueError where a figure is not a number."""
    named = {**document, "schema": SCHEMA, "kind": KIND}
    named.pop("sha256", None)
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**named, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}


def artefact(
    fitted: dict[str, Any],
    *,
    domain: str,
    created: datetime,
    model_sha256: str,
    adapter_sha256: str,
    data_sha256: str,
    scope: dict[str, Any] | None = None,
    blend: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the sealed artefact of what was fitted; `fitted` is Calibration.document()."""
    return seal(
        {
            **fitted,
            "domain": domain,
            "created": created.isoformat(timespec="seconds"),
            "model_sha256": model_sha256,
            "adapter_sha256": adapter_sha256,
            "data_sha256": data_sha256,
            "scope": scope,
            "blend": blend,
        }
    )
