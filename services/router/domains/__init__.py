"""Domains from a folder of TOML files, read anew as they change; or the one domain that the settings describe."""

from services.router.domains.folder import DomainFolder
from services.router.domains.one import OneDomain
from services.router.domains.reading import DomainReader, Reading

__all__ = ["DomainFolder", "DomainReader", "OneDomain", "Reading"]
