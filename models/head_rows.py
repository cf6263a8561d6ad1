"""Where the rows of attention's heads are: packed without padding, and in the padded layout of its products.

Shape legend: N positions read, B sessions, T positions of the longest, H heads, W width of a head, D = H * W;
G sessions of one group, S positions of the longest of them, R rows of one head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SCORES = 1 << 17
"""The most scores of one part on a CPU: half a MiB, so that three such tensors fit the second-level cache of a core."""

SHORTEST = 16
"""The fewest positions of a group on a CPU: torch's softmax of fewer numbers than a vector register holds takes ten
times as long."""


@dataclass(frozen=True)
class Group:
    """Sessions side by side in the padded layout."""

    first: int
    """The first of their 3 * G * H * S padded rows: all queries, then all keys, then all values."""
    sessions: int
    """G."""
    length: int
    """S: of the longest session, or `SHORTEST`."""
    queries: int
    """The most queries of one part."""
    lengths_G: Tensor
    """int64: positions of each."""

    def of(self, rows_RW: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Its queries, keys and values, each [G * H, S, W], in the padded layout of all groups."""
        count, width = self.sessions * heads, rows_RW.shape[1]
        rows_RW = rows_RW[self.first : self.first + 3 * count * self.length]
        query, key, value = rows_RW.view(3, count, self.length, width).unbind(0)
        return query, key, value

    def outputs(self, rows_RW: Tensor, heads: int) -> Tensor:
        """Its outputs [G * H, S, W] in the padded layout of all groups' outputs."""
        first, count = self.first // 3, self.sessions * heads
        return rows_RW[first : first + count * self.length].view(count, self.length, -1)

    def parts(self, causal: bool) -> Iterator[tuple[slice, slice]]:
        """(queries, the keys that they may see) of each part. The first part has all keys."""
        for last in range(self.length, 0, -self.queries):
            yield slice(max(last - self.queries, 0), last), slice(0, last if causal else self.length)


@dataclass(frozen=True)
class HeadRows:
    """Where each head's row of each position is, in the packed and in the padded layout."""

    heads: int
    tokens_N: Tensor
    """int64: b * T + t of each position."""
    padded_R: Tensor | None
    """int64 [3 * sum of G * H * S]: for each padded row its index among the N * 3 * H packed ones; that of some other
    where there is padding. None for one group, whose rows are moved whole positions at a time."""
    packed_R: Tensor
    """int64 [N * 3 * H]: for each packed row its index among the padded ones; [0] for one group."""
    output_R: Tensor
    """int64 [N * H]: for each packed row of the output its index among the padded ones; [0] for one group."""
    groups: list[Group]
    order_B: Tensor
    """int64: the sessions, those of each group one after the other."""

    @classmethod
    def of(cls, tokens_N: Tensor, batch: int, length: int, heads: int, one_group: bool | None = None) -> "HeadRows":
        """For positions b * T + t in `tokens_N`, of each session the first ones; `one_group`: None as the device asks.

        On a GPU a batch is one group: many small products would leave it idle, and so would rows this narrow.
        """
        device = tokens_N.device
        session_N, place_N = tokens_N // length, tokens_N % length
        lengths_B = torch.zeros(batch, dtype=torch.int64, device=device).index_add_(
            0, session_N, torch.ones_like(session_N)
        )
        if device.type != "cpu" if one_group is None else one_group:
            group = Group(0, batch, length, length, lengths_B)
            order_B = torch.arange(batch, device=device)
            return cls(heads, tokens_N, None, tokens_N[:0], tokens_N[:0], [group], order_B)
        lengths_B, order_B = lengths_B.sort(descending=True, stable=True)
        groups = list(groups_of(lengths_B, heads, SHORTEST))
        # Of each session: its group's first row, its place in the group, and the group's size.
        columns = [
            (group.first, place, group.sessions, group.length) for group in groups for place in range(group.sessions)
        ]
        session_B4 = torch.zeros(batch, 4, dtype=torch.int64)
        session_B4[: len(columns)] = torch.tensor(columns).view(-1, 4)
        session_B4 = torch.empty_like(session_B4).index_copy_(0, order_B, session_B4)
        first_N1, nth_N1, sessions_N1, length_N1 = session_B4[session_N, :, None].unbind(1)
        output_NH = (nth_N1 * heads + torch.arange(heads)) * length_N1 + place_N[:, None]
        part_P1 = torch.arange(3)[:, None]
        packed_NPH = (first_N1 + part_P1.T * sessions_N1 * heads * length_N1)[:, :, None] + output_NH[:, None]
        packed_R = packed_NPH.flatten()
        padded_R = packed_R.new_zeros(3 * heads * sum(group.sessions * group.length for group in groups))
        padded_R[packed_R] = torch.arange(len(packed_R))
        return cls(heads, tokens_N, padded_R, packed_R, (first_N1 // 3 + output_NH).flatten(), groups, order_B)

    def pad(self, values_NX: Tensor, width: int) -> Tensor:
        """[R, W]: the padded rows of the queries, keys and values [N, 3 * D]."""
        if self.padded_R is None:
            return self._padded(values_NX, width)
        return values_NX.reshape(-1, width).index_select(0, self.padded_R)

    def pad_outputs(self, values_ND: Tensor, width: int) -> Tensor:
        """[R / 3, W]: the padded rows of outputs [N, D], zero where there is padding."""
        if self.padded_R is None:
            return self._padded(values_ND, width)
        rows_RW = values_ND.new_zeros(len(self.padded_R) // 3, width)
        return rows_RW.index_copy_(0, self.output_R, values_ND.reshape(-1, width))

    def pack(self, rows_RW: Tensor) -> Tensor:
        """[N, 3 * D] of the padded rows of queries, keys and values."""
        return self._packed(rows_RW, self.packed_R)

    def pack_outputs(self, rows_RW: Tensor) -> Tensor:
        """[N, D] of the padded rows of outputs."""
        return self._packed(rows_RW, self.output_R)

    def _padded(self, values_NX: Tensor, width: int) -> Tensor:
        """One group's rows: all sessions of a head, all heads of a part, all parts."""
        batch, length = self.groups[0].sessions, self.groups[0].length
        padded_PX = values_NX.new_zeros(batch * length, values_NX.shape[1]).index_copy_(0, self.tokens_N, values_NX)
        # B x T x parts * H x W -> parts x B x H x T x W
        parts = padded_PX.view(batch, length, -1, self.heads, width).permute(2, 0, 3, 1, 4)
        return parts.reshape(-1, width)

    def _packed(self, rows_RW: Tensor, index_R: Tensor) -> Tensor:
        if self.padded_R is not None:
            return rows_RW.index_select(0, index_R).view(len(self.tokens_N), -1)
        batch, length, width = self.groups[0].sessions, self.groups[0].length, rows_RW.shape[1]
        parts = rows_RW.view(-1, batch, self.heads, length, width).permute(1, 3, 0, 2, 4)
        return parts.reshape(batch * length, -1).index_select(0, self.tokens_N)

    def ordered_groups(self) -> Iterator[tuple[Group, Tensor]]:
        """Each group and its sessions, int64 [G]."""
        done = 0
        for group in self.groups:
            yield group, self.order_B[done : done + group.sessions]
            done += group.sessions

    def most_scores(self, heads: int) -> int:
        """Of one part."""
        return max((group.sessions * heads * group.queries * group.length for group in self.groups), default=0)


def groups_of(lengths_B: Tensor, heads: int, shortest: int = 1) -> Iterator[Group]:
    """Groups of sessions whose lengths [B] descend, of as many as have `SCORES` at most; empty ones are in none.

    `shortest`: the least S of a group.
    """
    lengths = [length for length in lengths_B.tolist() if length]
    done = first = 0
    while done < len(lengths):
        length = max(lengths[done], shortest)
        sessions = min(max(1, SCORES // (heads * length**2)), len(lengths) - done)
        parts = math.ceil(heads * length**2 / SCORES)
        yield Group(first, sessions, length, math.ceil(length / parts), lengths_B[done : done + sessions])
        done, first = done + sessions, first + 3 * sessions * heads * length
