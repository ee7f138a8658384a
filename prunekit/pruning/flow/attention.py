"""Attentions: the heads that rows and columns make up, from what reaches what."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prunekit.pruning.flow.heads import HeadWatch


@dataclass(frozen=True)
class AttentionHeads:
    """The heads of one attention."""

    heads: int
    rows: Mapping[str, tuple[int, ...]]
    """Weight or bias -> the head of each row or entry, -1 for none: inputs in the model's order."""
    columns: Mapping[str, tuple[int, ...]]
    """Output projection -> the head of each column."""


def attentions(watch: HeadWatch) -> tuple[list[AttentionHeads], dict[str, str]]:
    """The attentions that were found, and for other weights with rows in one why they are not."""
    joined = _joined(watch)
    cores = {joined[label] for label in watch.meeting}
    rows = _members(watch, joined, cores)
    columns: dict[str, dict[int, set[int]]] = {}
    for column, readers in watch.readers.items():
        roots = {joined[label] for label in readers}
        if roots & cores:
            name, at = watch.numbers.column(column)
            columns.setdefault(name, {})[at] = roots
    found, refused = list[AttentionHeads](), dict[str, str]()
    for names in _connected(rows):
        made = _attention(watch, names, rows, columns)
        if isinstance(made, str):
            refused |= dict.fromkeys(names, made)
        else:
            found.append(made)
    return found, refused


def _joined(watch: HeadWatch) -> list[int]:
    """Row or set -> one of those that some column depends on together with it."""
    members = {number: sets for sets, number in watch.sets.items()}
    parent = list(range(watch.numbers.end + len(members)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    waiting = [label for labels in watch.readers.values() for label in labels]
    seen = set[int]()
    for labels in watch.readers.values():
        first, *others = labels
        for other in others:
            parent[root(other)] = root(first)
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            for member in members.get(number, ()):
                parent[root(member)] = root(number)
                waiting.append(member)
    return [root(number) for number in range(len(parent))]


def _members(
    watch: HeadWatch, joined: Sequence[int], cores: Collection[int]
) -> dict[str, dict[int, int]]:
    """Weight -> row -> the joined rows that it is of, where they are of an attention."""
    found: dict[str, dict[int, int]] = {}
    for name in watch.numbers.matrices:
        for at, row in enumerate(watch.numbers.row_numbers(name)):
            root = joined[row]
            if root in cores and watch._is_layer[row]:
                found.setdefault(name, {})[at] = root
    return found


def _connected(rows: Mapping[str, Mapping[int, int]]) -> Iterator[list[str]]:
    """Weights that have rows of the same head, in the model's order."""
    left = list(rows)
    while left:
        names = [left.pop(0)]
        roots, grown = set(rows[names[0]].values()), True
        while grown:
            more = [name for name in left if roots & set(rows[name].values())]
            names += more
            left = [name for name in left if name not in more]
            for name in more:
                roots |= set(rows[name].values())
            grown = bool(more)
        yield [name for name in rows if name in names]


def _attention(
    watch: HeadWatch,
    names: Sequence[str],
    rows: Mapping[str, Mapping[int, int]],
    columns: Mapping[str, Mapping[int, set[int]]],
) -> AttentionHeads | str:
    order = list(dict.fromkeys(root for _, root in sorted(rows[names[0]].items())))
    heads = {root: head for head, root in enumerate(order)}
    for name in names:
        held = list(rows[name].values())
        if set(held) != set(heads) or len({held.count(root) for root in heads}) > 1:
            return f"not each head has as many rows of {name}"
    outs = {n: c for n, c in columns.items() if any(r & heads.keys() for r in c.values())}
    if len(outs) != 1:
        shown = f"{len(outs)} layers, as {' and '.join(list(outs)[:2])}" if outs else "no layer"
        return f"its heads reach {shown}, not one output projection"
    out, reads = next(iter(outs.items()))
    mixed = [roots for roots in reads.values() if len(roots) > 1]
    if mixed:
        return f"a column of {out} reads several heads at once"
    by_column = {at: heads.get(next(iter(roots)), -1) for at, roots in reads.items()}
    counts = {list(by_column.values()).count(head) for head in heads.values()}
    if len(counts) > 1 or 0 in counts:
        return f"not each head has as many columns of {out}"
    made = {n: _map(watch, n, {at: heads[root] for at, root in rows[n].items()}) for n in names}
    return AttentionHeads(
        len(heads),
        made | _biases(watch, names, rows, heads),
        {out: _columns(watch, out, by_column)},
    )


def _map(watch: HeadWatch, name: str, heads: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(heads.get(at, -1) for at in range(len(watch.numbers.row_numbers(name))))


def _columns(watch: HeadWatch, name: str, heads: Mapping[int, int]) -> tuple[int, ...]:
    holder = watch.numbers.holders.first(name)
    size = holder.shape[0] if holder.is_transposed else holder.shape[1]
    return tuple(heads.get(at, -1) for at in range(size))


def _biases(
    watch: HeadWatch,
    names: Sequence[str],
    rows: Mapping[str, Mapping[int, int]],
    heads: Mapping[int, int],
) -> dict[str, tuple[int, ...]]:
    found: dict[str, dict[int, int]] = {}
    for name in names:
        first = watch.numbers.row_numbers(name).start
        for at, root in rows[name].items():
            if first + at in watch.biases:
                vector, entry = watch.numbers.place(watch.biases[first + at])
                found.setdefault(vector, {})[entry] = heads[root]
    sizes = {n: watch.numbers.holders.first(n).parameter.numel() for n in found}
    return {n: tuple(e.get(i, -1) for i in range(sizes[n])) for n, e in found.items()}
