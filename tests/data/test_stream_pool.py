"""Whatever is asked for in between, each reader gets its own requests, in their order."""

from itertools import count

import torch
from hypothesis import given, strategies as st

from prunekit.data.stream.pool import Pool
from prunekit.data.stream.reader import Read, Request


class Numbers:
    """Gives the numbers that were requested; keeps what it read."""

    def __init__(self):
        self.read = []

    def __getitems__(self, request):
        self.read.append((request.part, int(request.places)))
        return Read(request.places)


def requests(name, numbers):
    return (Request(name, torch.tensor(number)) for number in numbers)


@given(
    st.lists(
        st.tuples(st.sampled_from("nnnnnopc"), st.integers(0, 3), st.integers(0, 5)), max_size=40
    )
)
def test_readers_that_come_and_go_get_what_they_asked_for(actions):
    """n: the next; o: one more reader, of some requests; p: training, without an end; c: close."""
    source = Numbers()
    pool = Pool(source, 0, 4, pin=False)
    open_now, made = {}, count()
    for action, which, size in actions:
        if action in "op":
            name, endless = f"{action}{next(made)}", action == "p"
            wanted = count() if endless else range(size)
            reads = pool.read(requests(name, wanted), background=endless)
            open_now[name] = reads, iter(count() if endless else range(size))
        elif open_now:
            name = sorted(open_now)[which % len(open_now)]
            reads, expected = open_now[name]
            if action == "c":
                del open_now[name], reads
                continue
            found = next(reads, None)
            assert (None if found is None else int(found.images)) == next(expected, None)
    for name in {name for name, _ in source.read}:  # none twice, none left out
        numbers = [number for other, number in source.read if other == name]
        assert numbers == list(range(len(numbers)))


def test_an_evaluation_goes_before_what_has_no_end():
    source = Numbers()
    pool = Pool(source, 0, 4, pin=False)
    training = pool.read(requests("train", count()), background=True)
    assert [int(next(training).images) for _ in range(3)] == [0, 1, 2]
    assert [int(read.images) for read in pool.read(requests("test", range(4)))] == [0, 1, 2, 3]
    assert int(next(training).images) == 3
    order = [name for name, _ in source.read]
    assert order == ["train"] * 3 + ["test"] * 4 + ["train"]


def test_of_two_that_have_no_end_neither_waits_for_the_other():
    source = Numbers()
    pool = Pool(source, 0, 4, pin=False)
    first, second = (pool.read(requests(n, count()), background=True) for n in ("one", "two"))
    assert [int(next(first).images), int(next(second).images)] == [0, 0]
    assert [int(next(second).images), int(next(first).images)] == [1, 1]
    assert len(source.read) == 4
