"""The stored table of matrix-vector products, and what the documentation makes of it."""

from pathlib import Path

import pytest

from twofold.jobs.docs import rewrite
from twofold.jobs.docs_sections import matvec
from twofold.report.matvec import MatvecRow, MatvecTable


def row(threads: int, cold: bool, ratio: float) -> MatvecRow:
    return MatvecRow(
        format="q4_0",
        rows=1536,
        cols=576,
        threads=threads,
        cold=cold,
        ours_us=20.0,
        theirs_us=20.0 * ratio,
        ours_gb_s=24.9,
        theirs_gb_s=24.9 / ratio,
        ratio=ratio,
        their_weights="as stored",
    )


TABLE = MatvecTable(
    processor="A processor",
    isa="avx2",
    ggml="libggml-python 1",
    ggml_features=("avx2", "fma"),
    rounds=7,
    rows=(row(1, False, 2.0), row(1, True, 1.5), row(2, False, 1.25), row(2, True, 1.0)),
)


def test_stored_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "data" / "matvec.json"
    TABLE.write(file)
    assert MatvecTable.read(file) == TABLE


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "matvec.json"
    file.write_text('{"rows": []}')
    with pytest.raises(ValueError, match="holds no table"):
        MatvecTable.read(file)


def test_hot_and_cold_share_a_line(tmp_path: Path) -> None:
    page = tmp_path / "matvec.md"
    page.write_text("<!-- begin matvec -->\n<!-- end matvec -->\n")
    assert rewrite(page, {"matvec": lambda: matvec([TABLE])})
    lines = page.read_text().splitlines()
    assert "A processor; Twofold with avx2; libggml-python 1, built for avx2, fma" in lines[1]
    assert "| Q4_0 | 1,536 × 576 | 1 | 20.0 | 40.0 | 24.9 | 2.00 | 20.0 | 30.0 | 24.9 | 1.50 |" in lines
    assert "| Q4_0 | 1,536 × 576 | 2 | 20.0 | 25.0 | 24.9 | 1.25 | 20.0 | 20.0 | 24.9 | 1.00 |" in lines
