"""Numbers and texts as DWARF writes them, little-endian."""

from __future__ import annotations


class Reader:
    """Numbers out of bytes, in order. Raises IndexError where they end."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise IndexError
        self.at += size
        return piece

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def leb(self, signed: bool = False) -> int:
        """A LEB128 number of 64 bits."""
        value = shift = 0
        while shift < 70:
            byte = self.number(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return value - (1 << shift) if signed and value >> (shift - 1) else value

    def text(self) -> bytes:
        """The bytes before the next NUL. Raises ValueError when there is none."""
        end = self.data.index(0, self.at)
        return self.take(end + 1 - self.at)[:-1]
