#include "planes.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "half.h"
#include "kernels.h"
#include "work.h"

namespace twofold {

namespace {

// Activations of so few elements are prepared by every member for itself: cheaper than a barrier.
constexpr long kOwnCopy = 4096;
// Columns of a tile stay in a core's second-level cache while strips pass by.
constexpr long kTileBytes = 1024 * 1024;
// From so many tokens on, widening a strip pays.
constexpr long kMany = 8;

constexpr size_t lined(size_t bytes) { return (bytes + 63) / 64 * 64; }

// What a product needs of its activations, one token after the other: tables and sums for looking up, planes, scales
// and perhaps values for counting, nothing for a widened product of coded planes. It lies at an address in scratch
// memory, each part on a cache line of its own.
struct Prepared {
  PlaneMatrix m;
  long tokens;
  int bits;
  bool wide;

  long groups() const { return group_count(m.layout, m.cols); }
  bool tables() const { return m.coded && !wide; }
  size_t table_floats() const { return static_cast<size_t>(m.cols) / 4 * kernels().planes.table; }
  size_t plane_words() const { return static_cast<size_t>(m.cols) / kBlockCols * bits; }
  size_t first() const {
    if (m.coded) return tables() ? lined(tokens * table_floats() * 4) : 0;
    return lined(tokens * plane_words() * 4);
  }
  size_t second() const { return m.coded && wide ? 0 : lined(tokens * groups() * 4); }
  size_t bytes() const { return first() + second() + (!m.coded && wide ? lined(tokens * m.cols * 4) : 0); }

  float* tables_at(uint8_t* at, long t) const { return reinterpret_cast<float*>(at) + t * table_floats(); }
  uint32_t* planes_at(uint8_t* at, long t) const { return reinterpret_cast<uint32_t*>(at) + t * plane_words(); }
  float* sums_at(uint8_t* at, long t) const { return reinterpret_cast<float*>(at + first()) + t * groups(); }
  float* values_at(uint8_t* at, long t) const {
    return reinterpret_cast<float*>(at + first() + second()) + t * m.cols;
  }

  void fill(uint8_t* at, const float* x, long from, long to) const {
    const PlaneKernels& k = kernels().planes;
    for (long t = from; t < to; ++t) {
      const float* column = x + t * m.cols;
      if (tables()) k.tables(column, m.cols, m.layout.group, tables_at(at, t), sums_at(at, t));
      if (!m.coded)
        k.bipolar_round(column, m.cols, m.layout.group, bits,
                        {planes_at(at, t), sums_at(at, t), wide ? values_at(at, t) : nullptr});
    }
  }
};

struct PlaneProduct {
  std::shared_ptr<Stream> stream;
  Prepared prepared;
  const float* x;
  const float* bias;
  float* y;
  std::shared_ptr<WorkQueue> queue = std::make_shared<WorkQueue>(stream->threads());

  const PlaneMatrix& m() const { return prepared.m; }
  long strips() const { return m().rows / kStripRows; }
  // A member's widened strip and its factors.
  size_t own_bytes() const {
    return prepared.wide ? lined((m().cols + prepared.groups()) * kStripRows * sizeof(float)) : 0;
  }

  // One strip for tokens [first, last); prepared activations at `at`, the member's own memory at `own`.
  void strip(long number, uint8_t* at, uint8_t* own, long first, long last) const {
    const PlaneKernels& k = kernels().planes;
    const PlaneLayout& l = m().layout;
    const uint8_t* data = m().strips + number * plane_strip_bytes(l, m().cols);
    const int columns = static_cast<int>(last - first);
    float* out = y + first * m().rows + number * kStripRows;
    if (prepared.wide) {
      auto* w = reinterpret_cast<float*>(own);
      float* factors = m().coded ? nullptr : w + m().cols * kStripRows;
      if (m().coded) {
        k.widen_coded(l, data, m().cols, w);
        k.wide(w, m().cols, l.group, nullptr, x + first * m().cols, nullptr, columns, out, m().rows, kStripRows);
      } else {
        k.widen_bipolar(l, data, m().cols, w, factors);
        k.wide(w, m().cols, l.group, factors, prepared.values_at(at, first), prepared.sums_at(at, first), columns, out,
               m().rows, kStripRows);
      }
    } else if (m().coded) {
      k.look_up(l, data, m().cols, prepared.tables_at(at, first), prepared.sums_at(at, first), columns, out, m().rows,
                kStripRows);
    } else {
      k.bipolar(l, data, m().cols, prepared.bits, prepared.planes_at(at, first), prepared.sums_at(at, first), columns,
                out, m().rows, kStripRows);
    }
    if (bias == nullptr) return;
    for (long t = 0; t < columns; ++t)
      for (long r = 0; r < kStripRows; ++r) out[t * m().rows + r] += bias[number * kStripRows + r];
  }

  void run(uint8_t* at, uint8_t* own, int member) const {
    const long tokens = prepared.tokens;
    const long tile = std::clamp<long>(kTileBytes / (m().cols * 4) / 8 * 8, 8, tokens);
    const long tiles = (tokens + tile - 1) / tile;
    queue->each(tiles * strips(), 1, member, [&](long item, long) {
      const long first = item / strips() * tile;
      strip(item % strips(), at, own, first, std::min(first + tile, tokens));
    });
  }
};

}  // namespace

void pack_planes(const PlaneMatrix& m, const uint8_t* planes, const uint16_t* factors, uint8_t* packed) {
  const PlaneLayout& l = m.layout;
  const long groups = group_count(l, m.cols), row_bytes = m.cols / 8;
  for (long row = 0; row < m.rows; ++row) {
    uint8_t* strip = packed + row / kStripRows * plane_strip_bytes(l, m.cols);
    const long r = row % kStripRows;
    const uint8_t* source = planes + row * l.planes * row_bytes;
    each_group(l, strip, m.cols, [&](long g, const uint8_t* stored, const uint8_t* blocks, long count) {
      auto* to = const_cast<uint8_t*>(stored);
      for (int i = 0; i < l.factors; ++i)
        std::memcpy(to + 2 * (kStripRows * i + r), factors + (row * groups + g) * l.factors + i, 2);
      for (long b = 0; b < count / kBlockCols; ++b)
        for (int plane = 0; plane < l.planes; ++plane) {
          uint32_t word;
          std::memcpy(&word, source + plane * row_bytes + g * l.group / 8 + 4 * b, 4);
          if (m.coded) word = coded_bits(word);
          std::memcpy(const_cast<uint8_t*>(blocks) + b * plane_block_bytes(l) + 64 * plane + 4 * r, &word, 4);
        }
    });
  }
}

void unpack_planes(const PlaneMatrix& m, float* out) {
  const PlaneKernels& k = kernels().planes;
  const long groups = group_count(m.layout, m.cols);
  std::vector<float> w(m.cols * kStripRows), factors(groups * kStripRows);
  for (long row = 0; row < m.rows; row += kStripRows) {
    const uint8_t* strip = m.strips + row / kStripRows * plane_strip_bytes(m.layout, m.cols);
    if (m.coded) {
      k.widen_coded(m.layout, strip, m.cols, w.data());
    } else {
      k.widen_bipolar(m.layout, strip, m.cols, w.data(), factors.data());
    }
    for (long r = 0; r < kStripRows; ++r)
      for (long c = 0; c < m.cols; ++c) {
        const float scale = m.coded ? 1.0f : factors[c / m.layout.group * kStripRows + r];
        out[(row + r) * m.cols + c] = w[c * kStripRows + r] * scale;
      }
  }
}

Instruction plane_linear(const std::shared_ptr<Stream>& stream, const PlaneMatrix& m, const float* x, long tokens,
                         const float* bias, float* y, int bits) {
  const bool wide = m.coded ? bits == 0 : tokens >= kMany && m.layout.planes * bits > kernels().planes.counting;
  const PlaneProduct product{stream, {m, tokens, bits, wide}, x, bias, y};
  const size_t bytes = product.prepared.bytes(), own = product.own_bytes();
  if (tokens * m.cols <= kOwnCopy || bytes == 0) {
    stream->reserve((bytes + own) * stream->threads());
    return {"plane_linear", {[product, bytes, own](int member, int) {
              uint8_t* at = product.stream->scratch() + (bytes + own) * member;
              product.prepared.fill(at, product.x, 0, product.prepared.tokens);
              product.run(at, at + bytes, member);
            }}};
  }
  stream->reserve(bytes + own * stream->threads());
  return {"plane_linear",
          {[product](int member, int members) {
             const Share part = share(product.prepared.tokens, member, members);
             product.prepared.fill(product.stream->scratch(), product.x, part.first, part.last);
           },
           [product, bytes, own](int member, int) {
             uint8_t* at = product.stream->scratch();
             product.run(at, at + bytes + own * member, member);
           }}};
}

}  // namespace twofold
