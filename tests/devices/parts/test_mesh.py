"""Closed forms of sums and products over a mesh against the same played word by word, and those against
numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.parts.mesh import Mesh, Reduction, Shifting, ring, tree
from twofold.devices.parts.mesh_events import Blocks, MeshSimulator, all_reduce, mesh_gemm, mesh_gemv
from twofold.devices.parts.mesh_score_events import mesh_scores

MESH = Mesh(hertz=1e9, hop=1, route=5, link_bytes=4, paths=32)
FAR = Mesh(hertz=1e9, hop=3, route=8, link_bytes=8, paths=32)
REDUCTIONS: tuple[Reduction, ...] = ("k-tree", "pipeline", "ring")
SHIFTINGS: tuple[Shifting, ...] = ("interleaved", "cannon", "summa")


def vectors(cores: int, size: int) -> tuple[list[tuple[int, int]], Blocks]:
    rng = np.random.default_rng(cores * 1000 + size)
    line = [(0, i) for i in range(cores)]
    return line, {core: rng.standard_normal(size) for core in line}


@settings(max_examples=60, deadline=None)
@given(
    cores=st.integers(2, 30),
    size=st.integers(1, 80),
    how=st.sampled_from(REDUCTIONS),
    mesh=st.sampled_from([MESH, FAR]),
)
def test_sums_equal_their_words(cores: int, size: int, how: Reduction, mesh: Mesh) -> None:
    """Every core has the sum, and the closed form is the cycle of the last word: exactly for chains and trees
    of full groups; a ring has two ways of one hop instead of two."""
    line, held = vectors(cores, size)
    sim = MeshSimulator(mesh)
    sums, cycles = all_reduce(sim, line, held, how)
    expected = sum(held.values())
    assert all(np.allclose(sums[core], expected) for core in line)
    closed = mesh.all_reduce(cores, sim.words(held[line[0]]), how)
    if how == "ring":
        assert closed - 3 * mesh.hop <= cycles <= closed
    elif how == "pipeline":
        assert cycles == closed
    else:
        group, _ = next(tree(cores, 2))
        slack = mesh.hop * group if cores % group else 0  # the last group is a smaller one
        assert closed - slack <= cycles <= closed


@pytest.mark.parametrize("phases", [1, 2, 3])
def test_trees_of_other_depths(phases: int) -> None:
    """K-trees of full groups are exact for every K; more phases route less often."""
    line, held = vectors(64, 12)
    sim = MeshSimulator(MESH)
    sums, cycles = all_reduce(sim, line, held, "k-tree", phases)
    assert np.allclose(sums[0, 5], sum(held.values()))
    assert cycles == MESH.all_reduce(64, 6, "k-tree", phases)
    assert MESH.all_reduce(64, 1, "k-tree", 2) < MESH.all_reduce(64, 1, "k-tree", 1)


def test_latency_is_what_the_paper_says() -> None:
    """Of a short vector on a long line: 2 N hops and N routings in a pipeline, N hops and sqrt(N) routings
    in a tree of two phases; a ring routes as often as a pipeline at least."""
    n = 900
    hops = Mesh(1e9, 1, 10**6, 4, 32)
    assert MESH.all_reduce(n, 1, "pipeline") == pytest.approx(2 * n + 5 * n, rel=0.01)
    assert hops.all_reduce(n, 1, "pipeline") // 10**6 == n
    assert hops.all_reduce(n, 1, "k-tree") // 10**6 == pytest.approx(n**0.5, abs=1)
    assert MESH.all_reduce(n, 1, "k-tree") == pytest.approx(n + 5 * n**0.5, rel=0.05)
    assert MESH.all_reduce(n, 1, "ring") > MESH.all_reduce(n, 1, "pipeline")


@settings(max_examples=25, deadline=None)
@given(
    cores=st.integers(2, 7),
    tile=st.integers(1, 7),
    macs=st.sampled_from([1, 2, 32]),
    how=st.sampled_from(SHIFTINGS),
    mesh=st.sampled_from([MESH, FAR]),
)
def test_products_equal_their_words(cores: int, tile: int, macs: int, how: Shifting, mesh: Mesh) -> None:
    """MeshGEMM, Cannon and SUMMA give the plain product, in the cycles of the closed form."""
    rng = np.random.default_rng(tile)
    size = cores * tile
    a, b = rng.standard_normal((size, size)), rng.standard_normal((size, size))
    sim = MeshSimulator(mesh)
    product, cycles = mesh_gemm(sim, a, b, cores, macs, how)
    assert np.allclose(product, a @ b)
    words = mesh.words(2 * tile * tile)
    assert cycles == mesh.multiply(cores, -(-(tile**3) // macs), words, words, how)


@pytest.mark.parametrize(
    ("cores", "tile", "macs"), [(4, 4, 2), (8, 3, 64), (8, 6, 2), (12, 4, 8), (16, 6, 100)]
)
def test_scores_equal_their_words(cores: int, tile: int, macs: int) -> None:
    """Q K^T without moving Q: the plain product, in the cycles of the closed form but for the ways of first
    words, a line there and back at most."""
    rng = np.random.default_rng(tile)
    q, k = (rng.standard_normal((cores * tile, cores * tile)) for _ in range(2))
    product, cycles = mesh_scores(MeshSimulator(MESH), q, k, cores, macs)
    assert np.allclose(product, q @ k.T)
    words = MESH.words(2 * tile * tile)
    closed = MESH.multiply_transposed(cores, -(-(tile**3) // macs), words, words, cores, "interleaved")
    assert cycles == pytest.approx(closed, abs=2 * cores * (MESH.hop + MESH.route))


@pytest.mark.parametrize(("m", "k", "n"), [(9, 13, 7), (20, 5, 17), (4, 30, 4)])
def test_products_of_odd_shapes(m: int, k: int, n: int) -> None:
    """Sizes that the mesh does not divide: the products are still the plain ones."""
    rng = np.random.default_rng(m)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    for how in SHIFTINGS:
        assert np.allclose(mesh_gemm(MeshSimulator(MESH), a, b, 4, 2, how)[0], a @ b)
    for reduction in REDUCTIONS:
        assert np.allclose(mesh_gemv(MeshSimulator(MESH), a[0], b, 4, 2, reduction)[0], a[0] @ b)
    assert np.allclose(mesh_scores(MeshSimulator(MESH), a, b.T, 4, 2)[0], a @ b)


def test_gemv_equals_its_words() -> None:
    """A vector times a matrix: local products, then one sum along every column."""
    rng = np.random.default_rng(0)
    x, b = rng.standard_normal(48), rng.standard_normal((48, 32))
    product, cycles = mesh_gemv(MeshSimulator(MESH), x, b, 16, 2)
    assert np.allclose(product, x @ b)
    assert cycles == 3 * 2 // 2 + MESH.all_reduce(16, MESH.words(2 * 2), "k-tree")


def test_interleaving_bounds_every_way() -> None:
    """Neighbours on the interleaved ring lie at most two hops apart, and it visits every core once."""
    for cores in range(2, 20):
        around = ring(cores, "interleaved")
        assert sorted(around) == list(range(cores))
        assert max(abs(one - other) for one, other in zip(around, around[1:] + around[:1], strict=True)) <= 2


def test_long_ways_cost_only_rounds_that_end_together() -> None:
    """Cannon's way back spans the line: dear where rounds end together, as cheap as interleaving where each
    core waits for its neighbours alone, since every ring over a line is 2 (N - 1) hops long."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((16, 16)), rng.standard_normal((16, 16))
    together, apart = (
        {
            how: mesh_gemm(MeshSimulator(MESH), a, b, 8, 64, how, together=both)[1]
            for how in ("interleaved", "cannon")
        }
        for both in (True, False)
    )
    assert together["cannon"] > 1.4 * together["interleaved"]
    assert apart["cannon"] == pytest.approx(apart["interleaved"], rel=0.05)


def test_more_senders_than_links_wait() -> None:
    """Two streams over one link: the second follows the first."""
    sim = MeshSimulator(MESH)
    line = [(0, i) for i in range(4)]
    assert sim.send(line, range(5))[-1] == 4 + 3
    assert sim.send(line[1:], range(5))[0] == 6 + 2


def test_larger_messages_take_longer() -> None:
    """Closed forms never fall in words or cores."""
    for how in REDUCTIONS:
        for cores in (2, 17, 360, 661):
            times = [MESH.all_reduce(cores, words, how) for words in range(1, 400)]
            assert times == sorted(times)
    for shifting in SHIFTINGS:
        assert MESH.multiply(30, 10, 4, 4, shifting) <= MESH.multiply(30, 10, 9, 4, shifting)
        assert MESH.multiply(30, 10, 4, 4, shifting) <= MESH.multiply(30, 900, 4, 4, shifting)
        shorter, longer = (MESH.multiply_transposed(9, 4, 3, 3, line, shifting) for line in (3, 9))
        assert shorter < longer
    assert MESH.all_reduce(1, 9, "k-tree") == MESH.all_reduce(9, 0, "ring") == 0


def test_impossible_meshes() -> None:
    """Figures and trees that cannot be are refused."""
    with pytest.raises(ValueError, match="must be positive"):
        Mesh(1e9, 0, 5, 4, 32)
    with pytest.raises(ValueError, match="needs 4 paths at its roots, and cores hold 3"):
        Mesh(1e9, 1, 5, 4, 3).all_reduce(64, 8, "k-tree", 3)
