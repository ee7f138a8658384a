"""An environment on top of that of the tests, where plugins are installed as by a user."""

import os
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent


class PluginEnv:
    """A virtual environment with prunekit from its wheel, and all else that the tests have.

    Nothing comes from a network, and torch is not installed again: a `.pth` file appends the folder
    of packages that the tests run with. The scripts `prunekit` and `pytest` begin with what a run
    imports, as a process that is forked for each: see `plugin_server.py`.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=False, symlinks=True)
        base = {"base": str(folder / "env"), "platbase": str(folder / "env")}
        site = Path(sysconfig.get_path("purelib", vars=base))
        tests_have = sysconfig.get_path("purelib")
        (site / "tests.pth").write_text(f"import site; site.addsitedir({tests_have!r})\n")
        self.bin = folder / "env" / "bin"
        self.socket = Path(tempfile.mkdtemp()) / "socket"  # its name has to be short
        self._script("pip", "-m pip")
        self.run(f"pip wheel -q --no-deps -w {folder} {ROOT}", folder)
        self.run("pip install -q --no-deps --no-compile -I prunekit-*.whl", folder)
        where = self.run("python -c 'import prunekit; print(prunekit.__file__)'", folder)
        assert where.startswith(str(site)), "the wheel, not the checkout"
        for name in ("pytest", "prunekit"):
            self._script(name, f'-IS "{SUPPORT}/plugin_client.py" "{self.socket}" {name}')
        self.server = subprocess.Popen(
            [self.bin / "python", SUPPORT / "plugin_server.py", self.socket],
            cwd=folder, env=self._variables(), stdin=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        """With its server at work."""
        until = time.monotonic() + 60
        while not self.socket.exists():
            assert self.server.poll() is None, "its server ended"
            assert time.monotonic() < until, "its server does not answer"
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()
        self.socket.unlink(missing_ok=True)
        self.socket.parent.rmdir()

    def _script(self, name: str, words: str) -> None:
        """Have a name call the interpreter of the environment."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\nexec "{self.bin}/python" {words} "$@"\n')
        path.chmod(0o755)

    def run(self, script: str, folder: Path, *, fails: bool = False) -> str:
        """Run shell lines in a folder -> what they printed; they end with 0 unless one `fails`."""
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=folder,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert (done.returncode != 0) == fails, f"$ {script}\n{done.stdout}"
        return done.stdout

    def _variables(self) -> dict[str, str]:
        hidden = ("PIP_", "PYTEST_", "PYTHON")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        return clean | {
            "PATH": os.pathsep.join([str(self.bin), sysconfig.get_path("scripts"), clean["PATH"]]),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # 0 means that there is none
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
        }
