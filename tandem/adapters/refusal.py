"""Why an adapter on disk is not loaded."""

from enum import StrEnum


class Refusal(StrEnum):
    """Names one kind of fault; the words are stable, for logs, metrics and the details of an error."""

    TRUNCATED = "TRUNCATED"
    """A file is missing or shorter than it should be."""
    PICKLE = "PICKLE"
    """The weights come in a format that can run code."""
    SIGNATURE_MISSING = "SIGNATURE_MISSING"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    """The signature cannot be read, or is not one over this manifest by the key that it names."""
    KEY_UNKNOWN = "KEY_UNKNOWN"
    """The signing key is not trusted, or not for this tenant."""
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MISPLACED = "MISPLACED"
    """The version belongs to another tenant, name or version than its folder says, or the folder is a link."""
    HASH_MISMATCH = "HASH_MISMATCH"
    """A file is not the one that was signed."""
    BASE_MISMATCH = "BASE_MISMATCH"
    """It was trained on another base model."""
    DECRYPTION_FAILED = "DECRYPTION_FAILED"
    """The key that it was encrypted with is not at hand, or does not open it."""
    HEADER_TOO_LARGE = "HEADER_TOO_LARGE"
    """The header of the weights file claims a size that no adapter needs."""
    HEADER_INVALID = "HEADER_INVALID"
    """The header of the weights file is damaged or does not match its data."""
    CONFIG_INVALID = "CONFIG_INVALID"
    """Its adapter_config.json cannot be read or does not make sense."""
    ALIASES_INVALID = "ALIASES_INVALID"
    REJECTED = "REJECTED"
    """Its manifest says that the evaluation gate did not let it through."""
    NO_ROOM = "NO_ROOM"
    """As many versions are in memory as may be."""
    LOAD_FAILED = "LOAD_FAILED"
    """Checking or loading it ended in a way that no other word tells; the log has the cause."""
    UNSUPPORTED = "UNSUPPORTED"
    """It is sound, but of a kind that this version does not serve."""


class AdapterRefused(Exception):
    """Says why an adapter on disk is not loaded: a stable code, and a sentence for whoever has to mend it.

    `detail` is for the log of the machine alone: it may name paths, or what belongs to another tenant.
    """

    def __init__(self, code: Refusal, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    @property
    def explained(self) -> str:
        """Returns the sentence with what is for the log alone."""
        return f"{self.message} ({self.detail})" if self.detail else self.message
