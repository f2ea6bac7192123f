"""The pages and the REST API: Starlette, Jinja2 and server-sent events, with no build step and no other site."""

from edgeinfer.console.web.app import Site, make_app

__all__ = ["Site", "make_app"]
