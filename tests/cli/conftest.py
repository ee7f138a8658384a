"""What tests of commands share."""

import pytest

from prunekit.cli import main


@pytest.fixture
def call(capsys):
    """Run a command line in this process -> (exit code, stdout, stderr)."""

    def run(*args):
        with pytest.raises(SystemExit) as exit_info:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return exit_info.value.code, captured.out, captured.err

    return run
