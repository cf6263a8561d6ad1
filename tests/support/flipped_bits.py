"""One bit of a file read back otherwise."""


def flip(content: bytearray, share: float, bit: int) -> int:
    """Flips a bit at this share of the file, of Parquet without the footer, and returns its byte's place.

    Arrow ends the process where the size statistics of a column in the footer are wrong (26.0.1; its wrapper declares
    no exception for `RowGroupMetaData.column`).
    """
    footer = 0
    if content[:4] == content[-4:] == b"PAR1":
        footer = int.from_bytes(content[-8:-4], "little") + 8
    place = int(share * (len(content) - footer))
    content[place] ^= 1 << bit
    return place
