"""No maker's device is written into the code without a reason beside it.

What is done for CUDA alone is never run where there is no CUDA, so nothing proves it; what goes
through `torch.accelerator` is rehearsed on a device that torch learns of in the tests.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TYPES = {"cuda", "hip", "mps", "xpu", "hpu", "npu"}


def named(tree: ast.AST) -> Iterator[int]:
    """The lines that name a type of device: `torch.cuda`, `x.cuda()`, `"cuda"`, `"cuda:0"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in TYPES:
            yield node.end_lineno or node.lineno
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.partition(":")[0] in TYPES:
            yield node.lineno


def without_reason(source: str) -> list[int]:
    """Those of the lines with no comment on them or above, and no docstring below."""
    lines = ["", *source.splitlines(), ""]
    return [
        number
        for number in sorted(set(named(ast.parse(source))))
        if "#" not in lines[number]
        and not lines[number - 1].lstrip().startswith("#")
        and not lines[number + 1].startswith('"""')
    ]


def test_a_type_of_device_is_named_with_its_reason_or_not_at_all():
    files = [
        *(ROOT / "prunekit").rglob("*.py"),
        *ROOT.glob("plugins/*/prunekit_*/**/*.py"),
    ]
    assert len(files) > 200
    found = {str(f.relative_to(ROOT)): without_reason(f.read_text("utf-8")) for f in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_what_it_looks_for_is_found():
    source = """
import torch
torch.cuda.synchronize()
a = x.device.type == "cuda"
b = x.to("cuda:1")
c = x.cuda()
d = x.type == "mps"  # Apple's takes no argument
# torch has it for one type alone
torch.xpu.foo()
PINS = ("cuda", "xpu")
\"\"\"Whose host memory can be pinned.\"\"\"
e = "cuda is a word here"
"""
    assert without_reason(source) == [3, 4, 5, 6]
