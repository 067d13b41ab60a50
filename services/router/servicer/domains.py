"""RouterService/ListDomains: the domains that the caller may ask, a page at a time."""

from bisect import bisect_right
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from services.router.domain import Domains, ListedDomain
from services.router.domain.calibration import Artefact
from services.router.servicer.advise import profile_to_proto
from tandem.errors import InvalidInput
from tandem.rpc import call
from tandem.v1 import domains_pb2

_DEFAULT_PAGE, _MAX_PAGE = 100, 1000


class DomainLister:
    """Answers RouterService/ListDomains for its servicer."""

    def __init__(self, domains: Domains) -> None:
        self._domains = domains

    def answer(self, request: domains_pb2.ListDomainsRequest) -> domains_pb2.ListDomainsResponse:
        """Returns a page of domains; its token is the name of the page's last one. Raises InvalidInput."""
        caller = call.principal()
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise InvalidInput.of("page_size", f"must be 0 to {_MAX_PAGE}, is {request.page_size}")
        listed = self._domains.list(caller)
        # A domain may come or go between two pages: its neighbours are listed once all the same.
        start = bisect_right(listed, request.page_token, key=lambda row: row.domain.name) if request.page_token else 0
        end = start + (request.page_size or _DEFAULT_PAGE)
        return domains_pb2.ListDomainsResponse(
            domains=[_domain(row) for row in listed[start:end]],
            next_page_token=listed[end - 1].domain.name if end < len(listed) else "",
            default_domain=self._domains.default(caller),
        )


def _domain(row: ListedDomain) -> domains_pb2.Domain:
    domain = row.domain
    return domains_pb2.Domain(
        name=domain.name,
        description=domain.description,
        policy=domain.policy,
        answer_adapter=domain.answer_adapter,
        reading_adapter=domain.reading_adapter,
        snapshot=domain.snapshot,
        profile=None if domain.profile is None else profile_to_proto(domain.profile),
        calibration=None if domain.artefact is None else _calibration(domain.artefact),
        latency_objective=None if domain.latency_objective_ms is None else _duration(domain.latency_objective_ms),
        min_groundedness=domain.min_groundedness,
        below_groundedness=domain.below,
        fault=row.fault,
    )


def _calibration(artefact: Artefact) -> domains_pb2.DomainCalibration:
    return domains_pb2.DomainCalibration(
        version=artefact.version,
        threshold=artefact.threshold,
        risk=artefact.risk,
        level=artefact.level,
        accepted_share=artefact.measured.accepted.value,
        num_questions=artefact.measured.num_questions,
        has_scope=artefact.scope is not None,
    )


def _duration(milliseconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(milliseconds=milliseconds))
    return message
