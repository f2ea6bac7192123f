"""The one exception tree of edgeinfer.

    EdgeInferError                exit 1  something failed
    ├── UsageError                exit 2  the command was called wrongly
    │   ├── ConfigError           exit 2  a configuration file is wrong
    │   └── SamplesError          exit 2  labelled samples do not fit the model
    ├── RefusedError              exit 3  a check said no
    │   ├── AccuracyBudgetError   exit 3  no candidate keeps the accuracy budget
    │   ├── PackageError          exit 3  a package is damaged or does not say what it must
    │   ├── SignatureError        exit 3  a signature is missing, unknown or wrong
    │   └── GateError             exit 3  a package does not do on this device what it did when it was made
    ├── ModelError                exit 1  a model file cannot be loaded or run
    ├── SourceError               exit 1  a source cannot be read (recoverable: it is tried again)
    ├── BufferStorageError        exit 1  the results buffer cannot be read or written
    ├── StorageError              exit 1  the disk is full or fails (recoverable: it may have room again)
    ├── CodecError                exit 1  bytes are not a chunk
    ├── MessageError              exit 1  bytes are not the message that the topic promises
    ├── BrokerError               exit 1  the MQTT broker cannot be reached (recoverable)
    ├── ConsoleError              exit 1  the console cannot be reached or answered with an error
    ├── ControlError              exit 1  the running daemon cannot be asked (recoverable)
    ├── RemoteError               exit 1  a device cannot be reached over ssh, or answers nothing of use (recoverable)
    └── DependencyError           exit 1  an optional part is not installed

Every message says what was expected and what was found; `hint` says what the operator can do.
"""

from typing import ClassVar

__all__ = [
    "AccuracyBudgetError",
    "BrokerError",
    "BufferStorageError",
    "CodecError",
    "ConfigError",
    "ConsoleError",
    "ControlError",
    "DependencyError",
    "EdgeInferError",
    "GateError",
    "MessageError",
    "ModelError",
    "PackageError",
    "RefusedError",
    "RemoteError",
    "SamplesError",
    "SignatureError",
    "SourceError",
    "StorageError",
    "UsageError",
]


class EdgeInferError(Exception):
    """Base of all errors that edgeinfer raises on purpose.

    `exit_code` is what the command line returns for it; `recoverable` says whether trying again later
    can help; `hint` is a sentence for the person who has to mend it.
    """

    exit_code: ClassVar[int] = 1
    recoverable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(EdgeInferError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class SamplesError(UsageError):
    pass


class RefusedError(EdgeInferError):
    exit_code = 3


class AccuracyBudgetError(RefusedError):
    pass


class PackageError(RefusedError):
    pass


class SignatureError(RefusedError):
    pass


class GateError(RefusedError):
    pass


class ModelError(EdgeInferError):
    pass


class SourceError(EdgeInferError):
    recoverable = True


class BufferStorageError(EdgeInferError):
    recoverable = True


class StorageError(EdgeInferError):
    recoverable = True


class CodecError(EdgeInferError):
    pass


class MessageError(EdgeInferError):
    pass


class BrokerError(EdgeInferError):
    recoverable = True


class ConsoleError(EdgeInferError):
    pass


class ControlError(EdgeInferError):
    recoverable = True


class RemoteError(EdgeInferError):
    recoverable = True


class DependencyError(EdgeInferError):
    pass
