"""Python as another system has it: what that lacks is taken away before anything is imported.

A process that has this folder on its PYTHONPATH is as on the system that `SYSTEM_OF_TEST` names, as
far as that can be had here: paths, the loader of torch and the console stay those of this system.
"""

import contextlib
import multiprocessing.context
import os
import signal
import sys
import warnings
from pathlib import Path

import psutil  # noqa: F401 - it is built for this system, and needs what is taken away

MAPS = "/proc/self/maps"
SYSTEM = os.environ["SYSTEM_OF_TEST"]
LACKS = {
    "windows": {
        "modules": ("resource", "pwd", "grp", "termios"),
        "os": ("setsid", "sysconf", "getloadavg", "sched_getaffinity", "fork", "killpg", "pread"),
        "signal": ("SIGHUP", "SIGALRM", "pthread_sigmask"),
        "starts": ["spawn"],
        "files": ("/proc/", "/sys/", "/dev/shm"),
    },
    "macos": {
        "modules": (),
        "os": ("sched_getaffinity",),
        "signal": (),
        "starts": ["spawn", "fork", "forkserver"],
        "files": ("/proc/", "/sys/", "/dev/shm"),
    },
}[SYSTEM]


def ours() -> bool:
    """Whether code of prunekit asked, and not a library that is built for this system."""
    frame = sys._getframe(2)
    while frame is not None and "/pathlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and "/prunekit/" in frame.f_code.co_filename


def watch(event: str, arguments: tuple) -> None:
    """No such files here; and no text without its encoding, which is another one there."""
    if event == "open" and isinstance(arguments[0], str):
        path = arguments[0]
        if path.startswith(LACKS["files"]) and ours():
            raise FileNotFoundError(2, "No such file or directory", path)
        if SYSTEM == "windows" and os.path.isdir(path) and ours():
            raise PermissionError(13, "Permission denied", path)


def held() -> list[str]:
    """The files that this process has open or mapped."""
    with open(MAPS) as maps:
        found = [line.split(None, 5)[5].rstrip() for line in maps if "/" in line]
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def refuse_held(event: str, arguments: tuple) -> None:
    """Windows renames and deletes nothing that is open, nor a folder of such."""
    if event in ("os.rename", "os.remove") and SYSTEM == "windows":
        for path in arguments[: 2 if event == "os.rename" else 1]:
            real = os.path.realpath(os.fspath(path))
            if any(name == real or name.startswith(real + "/") for name in held()):
                raise PermissionError(13, "it is being used by another process", real)


def no_links(*_: object, **__: object) -> None:
    """As for a user without the right to make one."""
    raise OSError(22, "A required privilege is not held by the client")


for name in LACKS["modules"]:
    sys.modules[name] = None
for module in (os, signal):
    for name in LACKS[module.__name__]:
        delattr(module, name)
multiprocessing.context.DefaultContext.get_all_start_methods = lambda self: LACKS["starts"]
if SYSTEM == "windows":
    os.symlink = Path.symlink_to = no_links
warnings.filterwarnings("error", category=EncodingWarning, module=r"prunekit\b")
sys.addaudithook(watch)
sys.addaudithook(refuse_held)
