"""Two processes that take part in one run after another, as those that torchrun starts do."""

import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Client, Listener
from typing import Any, ParamSpec, Self, TypeVar

from tests.support.commands import Commands

P = ParamSpec("P")
T = TypeVar("T")
WORLD = 2


class TwoRanks:
    """Calls functions in two processes of one group, which are forked once and live on.

    In a `with`: `ranks(function, *args)` -> what the first rank returned, or the error of the
    first that failed. Function, arguments, result and error are pickled.
    """

    def __init__(self, commands: Commands) -> None:
        self.commands = commands

    def __enter__(self) -> Self:
        with Listener(family="AF_UNIX") as listener:
            address = str(listener.address)
            self.ends, self.processes = [], []
            for rank in range(WORLD):
                begun = self.commands.begin(rank, address, call=f"{__name__}:serve")
                self.processes.append(begun)
                self.ends.append(listener.accept())
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.end()

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


def serve(rank: str, address: str) -> None:
    """Take part, until the other end closes."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "localhost"}
    os.environ |= {name: str(value) for name, value in names.items()}
    with Client(address) as connection:
        while True:
            try:
                port, function, args, kwargs = connection.recv()
            except EOFError:
                return
            os.environ["MASTER_PORT"] = str(port)
            ended: tuple[Any, Exception | None]
            try:
                ended = function(*args, **kwargs), None
            except Exception as error:
                ended = None, error
            connection.send(ended)
