"""Lines of JSON, one by one."""

import pytest

from prunekit.foundation.json_lines import each_line, read_lines


@pytest.mark.parametrize(
    "line",
    [
        *("[" * 200_000, '{"step": 1e30}', '{"step": 9223372036854775808}', '{"step": -1}', ""),
        *('{"step": true}', '{"loss": 1}', '{"step": 1, "loss": 1e31}', '{"step": 2, "lo', "[1]"),
    ],
)
def test_what_is_no_line_is_none_and_the_others_are_read(tmp_path, line):
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    assert list(each_line(tmp_path / "m.jsonl")) == [{"step": 1}, None, {"step": 2}]
    assert read_lines(tmp_path / "m.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_name_is_held_once(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 1, "a/b": 2}\n{"step": 2, "a/b": 3}\n')
    first, second = read_lines(tmp_path / "m.jsonl")
    assert [id(name) for name in first] == [id(name) for name in second]
