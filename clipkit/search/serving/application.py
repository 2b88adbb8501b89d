"""The ASGI application of ``clipkit search serve``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from clipkit import __version__
from clipkit.collection import Collection
from clipkit.search.serving.failures import add_error_handlers
from clipkit.search.serving.load_service import Report, load_service
from clipkit.search.serving.loading import Loading
from clipkit.search.serving.middleware.access import AccessControl
from clipkit.search.serving.middleware.bounds import BoundedRequests
from clipkit.search.serving.middleware.headers import SecurityHeaders
from clipkit.search.serving.options import ServeOptions
from clipkit.search.serving.routes import images, page_routes, search, status, summaries
from clipkit.search.serving.service import Service


def create_app(
    folder: Path | str,
    options: ServeOptions | None = None,
    load: Callable[[Report], Service] | None = None,
) -> FastAPI:
    """Return the application that serves a collection.

    The collection, the index and the model are loaded in a thread that starts with the application;
    ``/api/status`` reports how far it is.

    Args:
        folder: A folder that ``clipkit embed`` wrote.
        options: Access and limits; None for a server on this machine only.
        load: Loads what is served; None for the collection in ``folder``.

    Returns:
        An application for uvicorn.

    Raises:
        DataError: If the folder is no collection, or not all of its shards are embedded.
    """
    options = options or ServeOptions()
    loading = Loading(
        Collection(folder).info, load or (lambda report: load_service(folder, options, report))
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading.start()
        yield
        loading.close()

    app = FastAPI(
        title="clipkit search",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.loading = loading
    add_error_handlers(app)
    # The description of the API names the token; AccessControl checks it.
    secured = [] if options.token is None else [Security(HTTPBearer(auto_error=False))]
    for routes in (page_routes, status, search, images, summaries):
        app.include_router(routes.router, dependencies=secured)
    # The last one added is the first one called.
    app.add_middleware(BoundedRequests, limits=options.limits)
    app.add_middleware(AccessControl, token=options.token, allowed_hosts=options.allowed_hosts)
    app.add_middleware(SecurityHeaders)
    return app
