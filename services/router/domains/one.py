"""The one domain of a router without a folder of them."""

from services.router.domain import Domain, ListedDomain
from tandem.errors import NotFound
from tandem.security import Principal


def unknown(name: str) -> NotFound:
    """Returns the refusal of a domain that is not there, or not for this caller: nobody learns which."""
    return NotFound(f'there is no domain "{name[:64]}" that you may ask; `tandem domains` lists those that you may')


class OneDomain:
    """Implements services.router.domain.Domains by one domain for everybody."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    async def start(self) -> None:
        """Has nothing to read."""

    async def stop(self) -> None:
        """Has nothing to end."""

    def find(self, name: str, principal: Principal) -> Domain:
        """Returns the domain; raises NotFound for any other name."""
        if name not in ("", self._domain.name):
            raise unknown(name)
        return self._domain

    def default(self, principal: Principal) -> str:
        """Returns its name."""
        return self._domain.name

    def list(self, principal: Principal) -> tuple[ListedDomain, ...]:
        """Returns it alone."""
        return (ListedDomain(self._domain),)
