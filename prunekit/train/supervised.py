"""Training under supervision: `status.json` tells how a run ended, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from prunekit.errors import PrunekitError, ResourceError
from prunekit.foundation.files import write_json
from prunekit.train.distributed import is_lost_peer, suppress_lost_peer
from prunekit.train.finish import conclude
from prunekit.train.lost import GRACE, lost_peer
from prunekit.train.trainer import Trainer


def train(trainer: Trainer, start: Callable[[], None]) -> None:
    """Train and report; `status.json` tells how it ended, whatever happens."""
    status = _Status(trainer.run_dir, trainer)
    status.write("running", 0, "")
    with trainer.stopping.requests:  # also while it is told how the run ended
        try:
            with trainer.observer:
                start()
                trainer.fit()
                conclude(trainer)
            if not trainer.group.is_main:
                trainer.group.barrier()  # until the results are whole
        except PrunekitError as error:
            status.write(_outcome(error), error.exit_code, str(error))
            raise
        except KeyboardInterrupt:
            status.write("stopped", 130, "interrupted")
            raise
        except torch.OutOfMemoryError as error:
            message = "out of memory: set data.micro_batch, or lower data.batch_size"
            status.write("failed", ResourceError.exit_code, message)
            raise ResourceError(message) from error
        except MemoryError as error:
            status.write("failed", ResourceError.exit_code, "out of memory")
            message = "out of memory: lower data.batch_size or data.train_limit"
            raise ResourceError(message) from error
        except Exception as error:
            if trainer.group.world > 1 and is_lost_peer(error):
                trainer.stopping.requests.outlasted = GRACE
                raise lost_peer(trainer.run_dir, trainer.engine.step) from error
            status.write("failed", 1, f"{type(error).__name__}: {error}")
            raise
        status.write("done", 0, "")
    if trainer.group.is_main:
        with suppress_lost_peer():  # no loss to a run that is done
            trainer.group.barrier()


class _Status:
    def __init__(self, run_dir: Path, trainer: Trainer) -> None:
        self.path, self.trainer = run_dir / "status.json", trainer

    def write(self, status: str, code: int, message: str) -> None:
        if self.trainer.group.is_main:
            step = self.trainer.engine.step
            document = {"status": status, "exit_code": code, "message": message, "step": step}
            write_json(self.path, document)


def _outcome(error: PrunekitError) -> str:
    return {6: "diverged", 75: "stopped"}.get(error.exit_code, "failed")
