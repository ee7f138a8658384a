"""Commands of the plugin environment, each in a process that is forked when all is imported.

The interpreter of that environment runs `plugin_server.py SOCKET`, until its input ends. A script
sends a command by `plugin_client.py`, with its folder, its variables and its streams. What was
installed meanwhile is found as by a fresh interpreter: folders on the path are looked at again, and
`.pth` files are read again. Then the module is run as `python -m` runs it.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import site
import socket
import sys
import sysconfig

IMPORTED = (
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.pyplot",
    "prunekit.cli.app",
    "prunekit.cli.run",
    "prunekit.data.builtin",
    "prunekit.export.exporting",
    "prunekit.report.figures",
    "prunekit.report.write",
    "prunekit.sweep.session",
    "prunekit.train.launch",
    "torch._inductor",
)
"""No plugin, and nothing of pytest, which rewrites what it imports itself."""


def serve(path: str) -> list[str]:
    """Fork for each command -> in the process of a command, its words."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those ended that wait
    while listener in select.select([listener, 0], [], [])[0]:
        asked = listener.accept()[0]
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return begun(asked)
        asked.close()
    os._exit(0)


def begun(asked: socket.socket) -> list[str]:
    """Fork once more, and wait here for the end -> in the new process, what to run."""
    text, streams, *_ = socket.recv_fds(asked, 1 << 20, 3)
    while not text.endswith(b"\n"):
        text += asked.recv(1 << 20)
    if command := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        asked.sendall(f"{code}\n".encode())
        os._exit(0)
    asked.close()
    words, folder, variables = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    return words


if __name__ == "__main__":
    sys.path[0] = sysconfig.get_path("scripts")  # as of a script of the environment
    name, *words = serve(sys.argv[1])
    sys.argv = [name, *words]
    importlib.invalidate_caches()
    site.addsitedir(sysconfig.get_path("purelib"))
    runpy.run_module(name, run_name="__main__", alter_sys=True)
