"""GGUF files: every type widens bit for bit, damage is named, tensors are views of the file."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import tiny_gguf

from twofold.models.gguf import read_gguf
from twofold.models.gguf_formats import GGML_FORMATS
from twofold.models.gguf_types import widener
from twofold.models.loading import load_checkpoint, load_spec
from twofold.ops.formats import get_format

HEADER = struct.Struct("<4sIQQ")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.mark.parametrize(("number", "name"), GGML_FORMATS.items())
def test_widening_equals_ggml(number: int, name: str) -> None:
    kind = gguf.GGMLQuantizationType(number)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert get_format(name).row_bytes(block) == size
    raw = np.random.default_rng(number).integers(0, 256, (4000, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, kind).astype(np.float32).reshape(4000, block)
    found = widener(name)(torch.from_numpy(raw.reshape(-1)), (4000, block)).numpy()
    assert found.dtype == np.float32
    nan = np.isnan(expected)
    assert 1 - nan.mean() > 0.5
    assert (np.isnan(found) == nan).all()
    assert (found.view(np.int32)[~nan] == expected.view(np.int32)[~nan]).all()


@pytest.mark.parametrize("name", GGML_FORMATS.values())
def test_tensors_are_views_that_widen_to_what_the_reader_of_gguf_gives(name: str, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", name)
    checkpoint = load_checkpoint(path)
    by_name = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for ours, theirs in (
        ("embed", "token_embd"),
        ("layers.1.down", "blk.1.ffn_down"),
        ("norm", "output_norm"),
    ):
        tensor, oracle = checkpoint.tensors[ours], by_name[f"{theirs}.weight"]
        expected = gguf.dequantize(oracle.data, oracle.tensor_type)
        assert torch.equal(tensor.float(), torch.from_numpy(np.array(expected, dtype=np.float32)))
        assert tensor.nbytes == oracle.n_bytes
        assert (
            tensor.data.data_ptr() == checkpoint.tensors[ours].data.data_ptr()
        )  # of one mapping, not copies
    assert checkpoint.spec.num_parameters() == sum(t.float().numel() for t in checkpoint)


def test_header_of_version_2_is_read_and_others_are_refused(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    for version, message in ((2, None), (1, "version 1"), (4, "version 4"), (0x03000000, "big-endian")):
        path = tmp_path / "v.gguf"
        path.write_bytes(whole[:4] + struct.pack("<I", version) + whole[8:])
        if message is None:
            assert read_gguf(path).version == 2
        else:
            with pytest.raises(ValueError, match=message):
                read_gguf(path)


def test_a_file_cut_off_anywhere_is_refused_with_a_reason(model: Path, tmp_path: Path) -> None:
    whole, path = model.read_bytes(), tmp_path / "cut.gguf"
    data_start = read_gguf(model).data_start
    cuts = [*range(0, 64), *range(64, data_start, 97), data_start, data_start + 1, len(whole) - 1]
    for length in cuts:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"empty|truncated|cut off|more than|not a GGUF"):
            load_checkpoint(path)


def test_absurd_counts_and_lengths_are_refused_without_allocating(model: Path, tmp_path: Path) -> None:
    whole, path = model.read_bytes(), tmp_path / "absurd.gguf"
    for num_tensors, num_keys in ((2**62, 1), (1, 2**62), (2**40, 2**40)):
        path.write_bytes(HEADER.pack(b"GGUF", 3, num_tensors, num_keys) + whole[HEADER.size :])
        with pytest.raises(ValueError, match="more than its"):
            load_checkpoint(path)
    path.write_bytes(HEADER.pack(b"GGUF", 3, 1, 1) + struct.pack("<Q", 2**60) + whole[: 1 << 12])
    with pytest.raises(ValueError, match="truncated header"):
        load_checkpoint(path)


def test_not_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("This is a text about a model, not a model.")
    with pytest.raises(ValueError, match="not a GGUF file: it starts with b'This'"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="no such file"):
        load_checkpoint(tmp_path / "absent.gguf")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_as_another_error(model: Path, data: st.DataObject) -> None:
    whole = bytearray(model.read_bytes())
    end = read_gguf(model).data_start
    # Half of the damage goes to the list of tensors, which is the last part of the header.
    start = data.draw(st.sampled_from([0, end - 900]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(start, end - 1))] = data.draw(st.integers(0, 255))
    path = model.with_name("damaged.gguf")
    path.write_bytes(bytes(whole))
    try:
        checkpoint = load_checkpoint(path)
    except ValueError as error:
        message = str(error)
    else:
        assert checkpoint.tensors["norm"].float().shape == (256,)
        return
    assert "damaged" in message  # the file is named


def rewrite(model: Path, path: Path, old: bytes, new: bytes) -> Path:
    """`model` with the first `old` in its bytes replaced by `new`, of the same length."""
    whole = model.read_bytes()
    assert len(old) == len(new)
    assert old in whole
    path.write_bytes(whole.replace(old, new, 1))
    return path


def test_an_unsupported_type_is_named_with_its_tensor(model: Path, tmp_path: Path) -> None:
    name = b"blk.1.ffn_down.weight"
    old = name + struct.pack("<IQQI", 2, 512, 256, 8)
    path = rewrite(model, tmp_path / "q2.gguf", old, name + struct.pack("<IQQI", 2, 512, 256, 10))
    with pytest.raises(
        ValueError, match=r"'blk\.1\.ffn_down\.weight' has the unsupported type q2_k; supported: bf16, f16"
    ):
        load_checkpoint(path)


def test_misplaced_and_misshapen_tensors(model: Path, tmp_path: Path) -> None:
    name = b"output_norm.weight" + struct.pack("<IQI", 1, 256, 0)
    path = rewrite(model, tmp_path / "a.gguf", name + struct.pack("<Q", 0), name + struct.pack("<Q", 7))
    with pytest.raises(ValueError, match="not aligned to 32"):
        load_checkpoint(path)
    path = rewrite(model, tmp_path / "b.gguf", name + struct.pack("<Q", 0), name + struct.pack("<Q", 2**40))
    with pytest.raises(ValueError, match=r"truncated: tensor 'output_norm\.weight' ends at byte"):
        load_checkpoint(path)
    path = rewrite(model, tmp_path / "c.gguf", b"blk.1.ffn_norm.weight", b"blk.1.ffn_xxxx.weight")
    with pytest.raises(ValueError, match=r"'blk\.1\.ffn_xxxx\.weight' has no place"):
        load_checkpoint(path)
    path = rewrite(model, tmp_path / "d.gguf", b"blk.1.ffn_norm.weight", b"blk.0.ffn_norm.weight")
    with pytest.raises(ValueError, match="appears twice"):
        load_checkpoint(path)
    path = rewrite(model, tmp_path / "e.gguf", b"blk.1.ffn_norm.weight", b"blk.9.ffn_norm.weight")
    with pytest.raises(ValueError, match=r"layers\.1\.mlp_norm missing"):
        load_checkpoint(path)
    old = b"blk.1.ffn_gate.weight" + struct.pack("<IQQ", 2, 256, 512)
    path = rewrite(
        model, tmp_path / "f.gguf", old, b"blk.1.ffn_gate.weight" + struct.pack("<IQQ", 2, 512, 256)
    )
    with pytest.raises(
        ValueError, match=r"layers\.1\.gate has shape \[256, 512\], the header implies \[512, 256\]"
    ):
        load_checkpoint(path)


def test_unknown_architectures_and_keys_are_refused(model: Path, tmp_path: Path) -> None:
    path = rewrite(model, tmp_path / "arch.gguf", b"llama", b"lamaa")
    with pytest.raises(ValueError, match="architecture 'lamaa' is not supported; did you mean 'llama'"):
        load_spec(path)
    path = rewrite(model, tmp_path / "key.gguf", b"llama.rope.freq_base", b"llama.rope.freq_xxxx")
    with pytest.raises(
        ValueError, match=r"llama\.rope\.freq_xxxx = 10000\.0 is unknown and may change the model"
    ):
        load_spec(path)
    path = rewrite(model, tmp_path / "need.gguf", b"llama.block_count", b"llama.block_cxxxx"[:17])
    with pytest.raises(ValueError, match=r"'llama\.block_count' is missing"):
        load_spec(path)


def test_a_damaged_number_of_layers_does_not_make_billions_of_names(model: Path, tmp_path: Path) -> None:
    key = b"llama.block_count" + struct.pack("<I", 4)
    path = rewrite(model, tmp_path / "m.gguf", key + struct.pack("<I", 2), key + struct.pack("<I", 2**31))
    with pytest.raises(ValueError, match="2,147,483,648 layers cannot be made of 20 tensors"):
        load_checkpoint(path)


def test_spec_alone_and_checkpoint_without_weights(model: Path) -> None:
    spec = load_spec(model)
    assert (spec.family, spec.hidden, spec.num_kv_heads, spec.tied_embeddings) == ("llama", 256, 2, True)
    checkpoint = load_checkpoint(model, weights=False)
    assert checkpoint.spec == spec
    assert not checkpoint.tensors


@pytest.mark.model
def test_the_default_model(smollm2: Path) -> None:
    from twofold.models.catalog import get_spec

    checkpoint = load_checkpoint("smollm2-135m")
    assert checkpoint.path == str(smollm2)
    known = get_spec("smollm2-135m")
    for field in ("num_layers", "hidden", "num_heads", "num_kv_heads", "head_dim", "ffn_hidden", "vocab_size",
                  "max_context", "rope_theta", "tied_embeddings"):  # fmt: skip
        assert getattr(checkpoint.spec, field) == getattr(known, field), field
    oracle = {t.name: t for t in gguf.GGUFReader(smollm2).tensors}
    assert checkpoint.spec.num_parameters() == sum(t.n_elements for t in oracle.values())
    for ours, theirs in (("embed", "token_embd"), ("layers.7.up", "blk.7.ffn_up")):
        expected = gguf.dequantize(oracle[f"{theirs}.weight"].data, oracle[f"{theirs}.weight"].tensor_type)
        assert torch.equal(checkpoint.tensors[ours].float(), torch.from_numpy(expected))
