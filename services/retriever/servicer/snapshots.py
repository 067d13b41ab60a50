"""The calls about snapshots."""

from typing import Any

import grpc

from services.retriever.domain import Snapshot, SnapshotState
from services.retriever.servicer import checks, convert
from services.retriever.snapshots import Keeper
from tandem.errors import FieldViolation, InvalidInput
from tandem.rpc import call
from tandem.v1 import common_pb2 as common
from tandem.v1 import retriever_service_pb2 as pb
from tandem.v1 import retriever_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_STATES = {
    SnapshotState.BUILDING: pb.Snapshot.STATE_BUILDING,
    SnapshotState.READY: pb.Snapshot.STATE_READY,
    SnapshotState.LIVE: pb.Snapshot.STATE_LIVE,
    SnapshotState.RETIRED: pb.Snapshot.STATE_RETIRED,
    SnapshotState.FAILED: pb.Snapshot.STATE_FAILED,
}
_ANALYZERS = ("", "english", "standard")


class SnapshotCalls(pb_grpc.RetrieverServiceServicer):
    """Serves the snapshots; the servicer that extends it sets their keeper."""

    _keeper: Keeper

    async def CreateSnapshot(self, request: pb.CreateSnapshotRequest, context: Context) -> pb.CreateSnapshotResponse:
        """Begins to build a snapshot."""
        call.require_role("platform")
        _check_wish(request)
        made = await self._keeper.create(
            request.snapshot_id,
            chunk_characters=request.chunk_characters or None,
            analyzer=request.analyzer or None,
            as_of=checks.moment(request.as_of) if request.HasField("as_of") else None,
        )
        return pb.CreateSnapshotResponse(snapshot=_snapshot(made))

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Context) -> pb.GetSnapshotResponse:
        """Describes a snapshot."""
        call.require_role("platform")
        return pb.GetSnapshotResponse(snapshot=_snapshot(await self._keeper.get(request.snapshot_id)))

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        """Returns a page of snapshots."""
        call.require_role("platform")
        after, size = checks.page(request)
        rows = await self._keeper.all()
        ids = [one.snapshot_id for one in rows]
        if after and after not in ids:
            raise InvalidInput.of("page_token", "is not one that this service gave, or its snapshot is gone")
        rest = rows[ids.index(after) + 1 :] if after else rows
        token = checks.page_token(rest[size - 1].snapshot_id) if len(rest) > size else ""
        return pb.ListSnapshotsResponse(snapshots=map(_snapshot, rest[:size]), next_page_token=token)

    async def DiffSnapshot(self, request: pb.DiffSnapshotRequest, context: Context) -> pb.DiffSnapshotResponse:
        """Returns a page of differences from the live snapshot."""
        principal = call.require_role("platform")
        after, size = checks.page(request)
        found, after = await self._keeper.diff(principal, request.snapshot_id, after=after, limit=size)
        differences = [
            pb.DocumentDifference(
                document_id=one.document_id, live_chunks=one.live_chunks, snapshot_chunks=one.snapshot_chunks
            )
            for one in found
        ]
        token = checks.page_token(after) if after else ""
        return pb.DiffSnapshotResponse(differences=differences, next_page_token=token)

    async def PromoteSnapshot(self, request: pb.PromoteSnapshotRequest, context: Context) -> pb.PromoteSnapshotResponse:
        """Makes a snapshot live."""
        call.require_role("platform")
        return pb.PromoteSnapshotResponse(snapshot=_snapshot(await self._keeper.promote(request.snapshot_id)))

    async def RollBackSnapshot(
        self, request: pb.RollBackSnapshotRequest, context: Context
    ) -> pb.RollBackSnapshotResponse:
        """Makes the snapshot live that was live before."""
        call.require_role("platform")
        return pb.RollBackSnapshotResponse(snapshot=_snapshot(await self._keeper.roll_back()))

    async def DeleteSnapshot(self, request: pb.DeleteSnapshotRequest, context: Context) -> pb.DeleteSnapshotResponse:
        """Removes a snapshot."""
        call.require_role("platform")
        await self._keeper.delete(request.snapshot_id)
        return pb.DeleteSnapshotResponse()


def _check_wish(request: pb.CreateSnapshotRequest) -> None:
    faults = []
    if request.chunk_characters and not 100 <= request.chunk_characters <= 8_000:
        faults.append(FieldViolation("chunk_characters", "must be 100 to 8,000, or 0"))
    if request.analyzer not in _ANALYZERS:
        faults.append(FieldViolation("analyzer", "must be english or standard, or empty"))
    if not checks.is_time(request.as_of):
        faults.append(FieldViolation("as_of", "is not a time of the years 1 to 9999"))
    if faults:
        raise InvalidInput(f"{faults[0].field} {faults[0].description}", faults)


def _snapshot(one: Snapshot) -> pb.Snapshot:
    return pb.Snapshot(
        snapshot_id=one.snapshot_id,
        state=_STATES[one.state],
        chunk_characters=one.chunk_characters,
        analyzer=one.analyzer,
        embedding=common.Lineage(model=one.model.name, model_sha256=one.model.sha256) if one.model else None,
        num_documents=one.num_documents,
        num_documents_total=one.num_documents_total,
        create_time=convert.timestamp(one.create_time),
        promote_time=None if one.promote_time is None else convert.timestamp(one.promote_time),
        as_of=None if one.as_of is None else convert.timestamp(one.as_of),
        error=one.error,
    )
