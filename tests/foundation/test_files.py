"""Files in one piece."""

import os
import stat

import pytest

from prunekit.foundation.files import replacing, sorted_lines


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_as_the_umask_says_whoever_made_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "file") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_line_that_is_nested_too_deep_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n' + "[" * 200_000 + "\n")
    assert sorted_lines(tmp_path / "m.jsonl") == ([{"step": 1}], 1)
