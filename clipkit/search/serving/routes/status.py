"""``GET /api/status``: what is served, and how far it is loaded."""

from __future__ import annotations

from fastapi import APIRouter

from clipkit.search.serving.failures import documented
from clipkit.search.serving.loading import CurrentLoading
from clipkit.search.serving.schemas import StatusAnswer

router = APIRouter(prefix="/api")


@router.get("/status", responses=documented())
async def get_status(loading: CurrentLoading) -> StatusAnswer:
    """Return the state of the server; the only route that answers while it loads."""
    return loading.status()
