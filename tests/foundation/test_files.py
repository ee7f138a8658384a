"""Files in one piece."""

import errno
import os
import stat

import pytest

from prunekit.foundation.files import cannot_write, replacing


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_as_the_umask_says_whoever_made_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "file") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("reason", "space"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.ENOENT, False), (errno.EROFS, False)],
)
def test_space_is_spoken_of_where_it_lacks(tmp_path, reason, space):
    told = str(cannot_write(tmp_path / "a", OSError(reason, os.strerror(reason))))
    assert os.strerror(reason) in told
    assert ("MB free" in told) is ("free some space" in told) is space
