// How an instruction set unpacks a block of 16 (or 8) rows × 32 columns and multiplies it with int8 activations.
//
// A format's `unpack(block, header, half)` returns a Block: the codes of rows half … half + kLanes - 1, their D and M.
// Block::add_columns adds to the sums of N columns; value(group, j) gives codes as floats; combine(low, high, meta, sum)
// adds the float32 dot products of codes with the first and last 16 columns.
#pragma once

#include "matmul_codes.h"
#include "matmul_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// AVX2 multiplies 8-bit codes as signed values, so that no offset is left to add.
#if defined(TWOFOLD_ISA_AVX2)
constexpr bool kSignedBytes = true;
#else
constexpr bool kSignedBytes = false;
#endif

// A block whose rows have one D, and either an M of their own or M = -Offset · D.
template <int Largest, int Offset>
struct Block {
  Bytes codes[8];
  Vec d, m;

  template <int N>
  void add_columns(const int8_t* x, long stride, const BlockMeta* meta, long blocks, Vec* sums) const {
    dot_groups<Largest, 0, 8, N>(codes, x, stride, [&](int c, Vec products) {
      const BlockMeta& of = meta[c * blocks];
      if constexpr (Offset == 0) {
        sums[c] = fma(m, set1(of.sum), fma(products, mul(d, set1(of.scale)), sums[c]));
      } else {
        if constexpr (Largest <= 127 || !kSignedBytes) products = fma(set1(of.total), set1(-Offset), products);
        sums[c] = fma(products, mul(d, set1(of.scale)), sums[c]);
      }
    });
  }
  Vec value(int group, int j) const { return value_of(codes[group], j); }
  Vec combine(Vec low, Vec high, const BlockMeta& meta, Vec total) const {
    if constexpr (Offset == 0) return fma(m, set1(meta.sum), fma(add(low, high), d, total));
    return fma(fma(set1(meta.total), set1(-Offset), add(low, high)), d, total);
  }
};

// A block whose rows have one D for the first and one for the last 16 columns, each with M = -Offset · D.
template <int Largest, int Offset>
struct SplitBlock {
  Bytes codes[8];
  Vec low, high;

  template <int N>
  void add_columns(const int8_t* x, long stride, const BlockMeta* meta, long blocks, Vec* sums) const {
    Vec first[N];
    dot_groups<Largest, 0, 4, N>(codes, x, stride, [&](int c, Vec products) {
      first[c] = mul(fma(set1(meta[c * blocks].low), set1(-Offset), products), low);
    });
    dot_groups<Largest, 4, 4, N>(codes, x, stride, [&](int c, Vec products) {
      const BlockMeta& of = meta[c * blocks];
      sums[c] = fma(fma(fma(set1(of.high), set1(-Offset), products), high, first[c]), set1(of.scale), sums[c]);
    });
  }
  Vec value(int group, int j) const { return value_of(codes[group], j); }
  Vec combine(Vec a, Vec b, const BlockMeta& meta, Vec total) const {
    a = fma(set1(meta.low), set1(-Offset), a);
    b = fma(set1(meta.high), set1(-Offset), b);
    return fma(b, high, fma(a, low, total));
  }
};

inline void unpack_4(Bytes* codes, const uint8_t* p, int half) {
  for (int v = 0; v < 4; ++v) {
    const Bytes two = load_bytes(p + 64 * v, half);
    codes[2 * v] = and_(two, 0x0f);
    codes[2 * v + 1] = and_(right<4>(two), 0x0f);
  }
}

inline void add_fifth(Bytes* codes, const uint8_t* p, int half) {
  const Bytes bits = load_bytes(p, half);
  codes[0] = or_(codes[0], and_(left<4>(bits), 0x10));
  codes[1] = or_(codes[1], and_(left<3>(bits), 0x10));
  codes[2] = or_(codes[2], and_(left<2>(bits), 0x10));
  codes[3] = or_(codes[3], and_(left<1>(bits), 0x10));
  codes[4] = or_(codes[4], and_(bits, 0x10));
  codes[5] = or_(codes[5], and_(right<1>(bits), 0x10));
  codes[6] = or_(codes[6], and_(right<2>(bits), 0x10));
  codes[7] = or_(codes[7], and_(right<3>(bits), 0x10));
}

inline void add_fifth_and_sixth(Bytes* codes, const uint8_t* p, int half) {
  for (int v = 0; v < 2; ++v) {
    const Bytes bits = load_bytes(p + 64 * v, half);
    Bytes* c = codes + 4 * v;
    c[0] = or_(c[0], and_(left<4>(bits), 0x30));
    c[1] = or_(c[1], and_(left<2>(bits), 0x30));
    c[2] = or_(c[2], and_(bits, 0x30));
    c[3] = or_(c[3], and_(right<2>(bits), 0x30));
  }
}

inline const half* halves(const uint8_t* p, int row) { return reinterpret_cast<const half*>(p) + row; }

// Formats of 32-column blocks: Bits per code, an fp16 scale, and either an fp16 minimum or a fixed Offset.
template <int Bits, int Offset>
struct Plain {
  static constexpr int kHeader = 0, kPeriod = 1;
  static constexpr int kScales = Offset == 0 ? 64 : 32;
  static constexpr int kBlock = kScales + (Bits == 8 ? 512 : Bits == 5 ? 320 : 256);

  static Block<(1 << Bits) - 1, Offset> unpack(const uint8_t* p, const uint8_t*, int row) {
    Block<(1 << Bits) - 1, Offset> out;
    out.d = load_half(halves(p, row));
    if constexpr (Offset == 0) out.m = load_half(halves(p + 32, row));
    p += kScales;
    if constexpr (Bits == 8) {
      for (int g = 0; g < 8; ++g) out.codes[g] = load_bytes(p + 64 * g, row);
    } else if constexpr (Bits == 5) {
      unpack_4(out.codes, p + 64, row);
      add_fifth(out.codes, p, row);
    } else {
      unpack_4(out.codes, p, row);
    }
    return out;
  }
};
using Q4_0 = Plain<4, 8>;
using Q4_1 = Plain<4, 0>;
using Q5_0 = Plain<5, 16>;
using Q5_1 = Plain<5, 0>;
using Q8_0 = Plain<8, 128>;

// Super-blocks of 256 columns: 8-bit scales and minima of every 32, fp16 factors for both.
template <int Bits>
struct Super {
  static constexpr int kHeader = 64, kPeriod = 8;
  static constexpr int kBlock = 32 + (Bits == 5 ? 320 : 256);

  static Block<(1 << Bits) - 1, 0> unpack(const uint8_t* p, const uint8_t* header, int row) {
    Block<(1 << Bits) - 1, 0> out;
    out.d = mul(load_half(halves(header, row)), load_u8(p + row));
    out.m = sub(zero(), mul(load_half(halves(header + 32, row)), load_u8(p + 16 + row)));
    if constexpr (Bits == 5) {
      unpack_4(out.codes, p + 96, row);
      add_fifth(out.codes, p + 32, row);
    } else {
      unpack_4(out.codes, p + 32, row);
    }
    return out;
  }
};
using Q4_K = Super<4>;
using Q5_K = Super<5>;

struct Q6_K {
  static constexpr int kHeader = 32, kPeriod = 8;
  static constexpr int kBlock = 32 + 128 + 256;

  static SplitBlock<63, 32> unpack(const uint8_t* p, const uint8_t* header, int row) {
    SplitBlock<63, 32> out;
    const Vec d = load_half(halves(header, row));
    out.low = mul(d, load_int8(reinterpret_cast<const int8_t*>(p) + row));
    out.high = mul(d, load_int8(reinterpret_cast<const int8_t*>(p) + 16 + row));
    unpack_4(out.codes, p + 160, row);
    add_fifth_and_sixth(out.codes, p + 32, row);
    return out;
  }
};

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
