"""The page as it is sent: one document with its own style and script, and a policy that allows it nothing else."""

import base64
import hashlib
from importlib.resources import files

__all__ = ["CONTENT_SECURITY_POLICY", "PAGE"]

PAGE = files(__package__).joinpath("page.html").read_bytes()


def _hash_of(tag: str) -> str:
    """The source of an inline element for the policy: the sha256 of what stands between its tags (CSP level 3)."""
    content = PAGE.partition(f"<{tag}>".encode())[2].partition(f"</{tag}>".encode())[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    "default-src 'none'; "
    f"script-src {_hash_of('script')}; style-src {_hash_of('style')}; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
