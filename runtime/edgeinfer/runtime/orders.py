"""What a person may ask of the running daemon over the control socket, as requests and answers.

{"do": "status"}                                      the status document, made anew
{"do": "models"}                                      what is installed
{"do": "activate", "model": "door", "what": "2.0.0"}  or with an open .edgepkg file in place of `what`
{"do": "rollback" | "pin" | "unpin" | "choose", "model": "door"}
"""

import msgspec

from edgeinfer.runtime.activation import Activation
from edgeinfer.runtime.control import Answer, Handler, Request
from edgeinfer.runtime.decoding import MALFORMED
from edgeinfer.runtime.errors import UsageError

__all__ = ["handlers"]


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    do: str
    model: str
    what: str = ""


def handlers(activation: Activation) -> dict[str, Handler]:
    """What is about models, by the name of the request; all but `models` change something."""

    def activate(request: Request, file: int) -> Answer:
        order = _order(request)
        if file >= 0:
            return _done(activation.activate_file(order.model, file))
        return _done(activation.activate(order.model, order.what))

    return {
        "models": lambda _request, _file: {"models": activation.models()},
        "activate": activate,
        "rollback": lambda request, _file: _done(activation.rollback(_order(request).model)),
        "choose": lambda request, _file: _done(activation.choose(_order(request).model)),
        "pin": lambda request, _file: _done(activation.pin(_order(request).model)),
        "unpin": lambda request, _file: _done(activation.unpin(_order(request).model)),
    }


def _order(request: Request) -> _Order:
    try:
        return msgspec.convert(request, _Order)
    except MALFORMED as error:
        raise UsageError(f"expected a model: {error}") from error


def _done(answer: object) -> Answer:
    return {"done": msgspec.to_builtins(answer)}
