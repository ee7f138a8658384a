"""Two processes that take part in one run after another, as those that torchrun starts do."""

import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
WORLD = 2


class TwoRanks:
    """Calls functions in two processes of one group; to start and import torch costs them once.

    In a `with`: `ranks(function, *args)` -> what the first rank returned, or the error of the
    first that failed. Function, arguments, result and error are pickled.
    """

    def __enter__(self) -> Self:
        context = get_context("spawn")
        pipes = [context.Pipe() for _ in range(WORLD)]
        self.ends = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(rank, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join(30)

    def __call__(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in both."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        for end in self.ends:
            end.send((port, function, args, kwargs))
        ended = [end.recv() for end in self.ends]
        for _, error in ended:
            if error is not None:
                raise error
        result: T = ended[0][0]
        return result


def _serve(rank: int, connection: Connection) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "localhost"}
    os.environ |= {name: str(value) for name, value in names.items()}
    while (job := connection.recv()) is not None:
        port, function, args, kwargs = job
        os.environ["MASTER_PORT"] = str(port)
        ended: tuple[Any, Exception | None]
        try:
            ended = function(*args, **kwargs), None
        except Exception as error:
            ended = None, error
        connection.send(ended)
