"""Queries over a table whose rows are [e | f]: embedding, and columns of the keep head.

Imports torch alone. Shape legend: B sessions, D width of an embedding, F of the keep head, X all columns.
"""

from torch import Tensor


def dialled(outputs_BX: Tensor, keep_dim: int, dial: float) -> Tensor:
    """[B, D + F]: the queries [q | dial * r] of the encoder's outputs [q | r | b]; those themselves without a head.

    Their inner product with a row is the next-track score, and `dial` times the logit of P(kept) less b, which is the
    same for all tracks of a session: the ranking is by q . e + dial * logit P(kept).
    """
    if not keep_dim:
        return outputs_BX
    queries_BX = outputs_BX[:, :-1].clone()
    queries_BX[:, -keep_dim:] *= dial
    return queries_BX


def keep_query(outputs_BX: Tensor, keep_dim: int) -> tuple[Tensor, Tensor]:
    """[0 | r], [B, D + F], and b [B, 1]: their product with a row and sum is the logit of P(kept) of its track."""
    queries_BX = outputs_BX[:, :-1].clone()
    queries_BX[:, :-keep_dim] = 0
    return queries_BX, outputs_BX[:, -1:]
