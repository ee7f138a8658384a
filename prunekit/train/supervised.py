"""Training under supervision: `status.json` tells how a run ended, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from prunekit.errors import PluginRaisedError, PrunekitError, WriteError
from prunekit.foundation.files import write_json
from prunekit.foundation.locks import hold_unnamed
from prunekit.train.distributed import is_lost_peer, suppress_lost_peer
from prunekit.train.finish import conclude
from prunekit.train.lost import GRACE, go_on_with, lost_peer
from prunekit.train.torch_errors import ToldPlainly
from prunekit.train.trainer import Trainer


def train(trainer: Trainer, start: Callable[[], None]) -> None:
    """Train and report; `status.json` tells how it ended, whatever happens."""
    status = _Status(trainer.run_dir, trainer)
    status.write("running", 0, "")
    with trainer.stopping.requests:  # also while it is told how the run ended
        try:
            with ToldPlainly(), trainer.observer, closing(trainer.run):
                start()
                trainer.fit()
                conclude(trainer)
            if not trainer.group.is_main:
                trainer.group.barrier()  # until the results are whole
        except PluginRaisedError as error:
            told = f"{error}; once that is mended, {go_on_with(trainer.run_dir)}"
            status.write_last("failed", error.exit_code, told)
            raise PluginRaisedError(told, error.trace) from error.__cause__
        except PrunekitError as error:
            status.write_last(_outcome(error), error.exit_code, str(error))
            raise
        except KeyboardInterrupt as error:
            status.write_last("stopped", 130, "interrupted")
            where = f"Interrupted at step {trainer.engine.step}: {go_on_with(trainer.run_dir)}"
            raise KeyboardInterrupt(where) from error
        except Exception as error:
            if trainer.group.world > 1 and is_lost_peer(error):
                trainer.stopping.requests.outlasted = GRACE
                raise lost_peer(trainer.run_dir, trainer.engine.step) from error
            status.write_last("failed", 1, f"{type(error).__name__}: {error}")
            raise
        status.write("done", 0, "")
    if trainer.group.is_main:
        with suppress_lost_peer():  # no loss to a run that is done
            trainer.group.barrier()


class _Status:
    def __init__(self, run_dir: Path, trainer: Trainer) -> None:
        self.path, self.trainer = run_dir / "status.json", trainer

    def write(self, status: str, code: int, message: str) -> None:
        """Tell how the run is; whoever holds its folder is named no more once it has ended."""
        if self.trainer.group.is_main:
            step = self.trainer.engine.step
            document = {"status": status, "exit_code": code, "message": message, "step": step}
            if status != "running":
                hold_unnamed(self.path.parent)
            write_json(self.path, document)

    def write_last(self, status: str, code: int, message: str) -> None:
        """What went wrong is raised anyway, also where the disk is full or the folder is gone."""
        with suppress(WriteError):
            self.write(status, code, message)


def _outcome(error: PrunekitError) -> str:
    return {6: "diverged", 75: "stopped"}.get(error.exit_code, "failed")
