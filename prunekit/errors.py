"""Every error that a user can cause, each with its exit code. Imports nothing."""

from __future__ import annotations


class PrunekitError(Exception):
    """An error with a message for a person: what is wrong, where, and the remedy."""

    exit_code = 1


class UsageError(PrunekitError):
    """The command line does not make sense."""

    exit_code = 2


class RecipeError(PrunekitError):
    """The recipe is not valid, or does not fit its model or data."""

    exit_code = 3


class SettingsError(RecipeError, ValueError):
    """Settings that were given in a call from Python are not valid."""


class DataError(PrunekitError):
    """Data is missing, unreadable or does not fit."""

    exit_code = 4


class CheckpointError(PrunekitError):
    """A checkpoint or run directory is missing, corrupt or incompatible."""

    exit_code = 5


class DivergedError(PrunekitError):
    """A step was not finite."""

    exit_code = 6


class PluginError(PrunekitError):
    """A component could not be imported or broke its contract."""

    exit_code = 7


class PluginRaisedError(PluginError):
    """Code of a component raised an error of its own."""

    def __init__(self, message: str, trace: str = "") -> None:
        """With what its author wants to see, which is shown above the line.

        Args:
            message: whose code, where, and what it raised.
            trace: the traceback from that code on; it goes along into other processes.
        """
        super().__init__(message)
        self.trace = trace


class UnrankedError(DivergedError, PluginError):
    """A strategy refused weights that are not finite; whoever caught a PluginError still does."""

    exit_code = DivergedError.exit_code


class ResourceError(PrunekitError):
    """The disk, the memory or a lock is not to be had."""

    exit_code = 8


class WriteError(ResourceError):
    """The disk is full or a folder may not be written: what else writes there fails too."""


class LostPeerError(ResourceError):
    """A process of the run is gone, or does not answer; the others go on from a checkpoint."""


class ExportError(PrunekitError):
    """The model cannot be exported, or the export does not give what the model gives."""

    exit_code = 9


class RemovalError(ExportError):
    """Units cannot be taken out of the model, or it would give something else without them."""


class StopRequestedError(PrunekitError):
    """The run was asked to stop; it is saved and can be resumed (EX_TEMPFAIL)."""

    exit_code = 75
