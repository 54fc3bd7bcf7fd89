"""Measured matrix-vector products beside ggml's: what `benchmarks/matvec_vs_ggml.py` stores and the
documentation shows."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError


class MatvecRow(BaseModel):
    """One product in one format: microseconds and stored weight bytes per second of either side, medians;
    `ratio`: median of the rounds' theirs over ours. cold: the weights came from beyond the last cache.
    their_weights: as stored, or rearranged, whichever ggml was faster with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    rows: int
    cols: int
    threads: int
    cold: bool
    ours_us: float
    theirs_us: float
    ours_gb_s: float
    theirs_gb_s: float
    ratio: float
    their_weights: str


class MatvecTable(BaseModel):
    """All rows of one measurement. isa: our instruction set; ggml, ggml_features: which build of theirs, and
    what it says that it uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processor: str
    isa: str
    ggml: str
    ggml_features: tuple[str, ...]
    rounds: int
    rows: tuple[MatvecRow, ...]

    @classmethod
    def read(cls, path: Path) -> MatvecTable:
        """The table that `write` stored. ValueError where the file does not hold one."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} holds no table of matrix-vector products: {error}") from None

    def write(self, path: Path) -> None:
        """Store as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def caption(self) -> str:
        """On what, and with what, it was measured."""
        return (
            f"{self.processor}; Twofold with {self.isa}; {self.ggml}, built for "
            f"{', '.join(self.ggml_features)}; medians of {self.rounds} interleaved rounds"
        )

    def pairs(self) -> list[tuple[MatvecRow, MatvecRow]]:
        """(hot, cold) rows of the same product, in the order of measurement."""
        cold = {(r.format, r.rows, r.cols, r.threads): r for r in self.rows if r.cold}
        return [(r, cold[r.format, r.rows, r.cols, r.threads]) for r in self.rows if not r.cold]
