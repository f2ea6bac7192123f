"""A package in the body of a request, taken into a file as it comes."""

import os
import tempfile
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from edgeinfer.console.web.site import Site
from edgeinfer.runtime.errors import PackageError

__all__ = ["uploaded_package"]


async def uploaded_package(site: Site, request: Request) -> Path:
    """A file in the folder of uploads, which is the caller's to remove; nobody has looked at it yet. Raises
    PackageError where it is larger than the configuration allows."""
    file = await run_in_threadpool(_new_file, site.uploads)
    try:
        await _stream_into(file, request, site.max_package_bytes)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file


def _new_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(descriptor)
    return Path(name)


async def _stream_into(path: Path, request: Request, limit: int) -> None:
    """Write the request's body to `path` as it comes. Raises PackageError when it is larger than `limit`."""
    size = 0
    file = await run_in_threadpool(path.open, "wb")
    with file:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise PackageError(f"expected a package of at most {limit} bytes", hint="see web.max_package_bytes")
            await run_in_threadpool(file.write, part)
