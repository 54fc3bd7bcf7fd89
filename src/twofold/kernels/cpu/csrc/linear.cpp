#include "linear.h"

#include <algorithm>

#include "kernels.h"
#include "packed.h"
#include "work.h"

namespace twofold {

namespace {

// Activations of so few elements are quantised by every member for itself: cheaper than a barrier.
constexpr long kOwnCopy = 4096;
// Activations of a tile stay in a core's second-level cache while strips of weights pass by.
constexpr long kTileBytes = 256 * 1024;
// Strips taken at a time are so few that members finish together, and so many that taking them costs little.
constexpr long kTurns = 12;

// Quantised (or exact) activations in a stream's scratch memory: meta of all blocks, then the codes.
struct Columns {
  long cols, tokens;
  Operands operands;

  bool exact() const { return operands.kind == Operands::Kind::exact; }
  size_t bytes() const {
    return static_cast<size_t>(tokens) * (cols / kBlockCols) * sizeof(BlockMeta) +
           (exact() ? 0 : static_cast<size_t>(tokens) * cols) + 64;
  }
  BlockMeta* meta(uint8_t* at) const { return reinterpret_cast<BlockMeta*>(at); }
  int8_t* codes(uint8_t* at) const {
    return reinterpret_cast<int8_t*>(at + static_cast<size_t>(tokens) * (cols / kBlockCols) * sizeof(BlockMeta));
  }
  void fill(uint8_t* at, const float* x, long first, long last) const {
    const MatmulKernels& k = kernels().matmul;
    for (long t = first; t < last; ++t) {
      BlockMeta* m = meta(at) + t * (cols / kBlockCols);
      switch (operands.kind) {
        case Operands::Kind::exact: k.summarise(x + t * cols, cols, m); break;
        case Operands::Kind::int8: k.quantise(x + t * cols, cols, codes(at) + t * cols, m); break;
        case Operands::Kind::e8m0:
          k.quantise_e8m0(x + t * cols, cols, operands.largest, codes(at) + t * cols, m);
          break;
        case Operands::Kind::token:
          k.quantise_column(x + t * cols, cols, operands.scale, codes(at) + t * cols, m);
          break;
        case Operands::Kind::pairs:
          k.quantise_pairs(x + t * cols, cols, operands.scale, codes(at) + t * cols, m);
          break;
      }
    }
  }
};

void add_bias(float* y, long stride, long tokens, const float* bias, long rows) {
  for (long t = 0; t < tokens; ++t)
    for (long r = 0; r < rows; ++r) y[t * stride + r] += bias[r];
}

void multiply_rows(float* y, long stride, long tokens, const float* factors, long rows) {
  for (long t = 0; t < tokens; ++t)
    for (long r = 0; r < rows; ++r) y[t * stride + r] *= factors[r];
}

void multiply(float* y, long stride, long tokens, float factor, long rows) {
  for (long t = 0; t < tokens; ++t)
    for (long r = 0; r < rows; ++r) y[t * stride + r] *= factor;
}

struct Product {
  std::shared_ptr<Stream> stream;
  std::vector<Segment> segments;
  Columns columns;
  const float* x;
  const float* bias;
  float* y;
  long rows = 0, strips = 0;
  std::shared_ptr<WorkQueue> queue = std::make_shared<WorkQueue>(stream->threads());

  // One strip (counted over all segments) for tokens [first, last).
  void strip(long number, const uint8_t* at, long first, long last) const {
    long before = 0;
    for (const Segment& s : segments) {
      const long count = (s.rows + kStripRows - 1) / kStripRows;
      if (number >= count) {
        number -= count;
        before += s.rows;
        continue;
      }
      const uint8_t* data = s.data + static_cast<size_t>(number) * strip_bytes(s.format, columns.cols);
      const long row = before + number * kStripRows;
      const int valid = static_cast<int>(std::min<long>(kStripRows, s.rows - number * kStripRows));
      const BlockMeta* meta = columns.meta(const_cast<uint8_t*>(at)) + first * (columns.cols / kBlockCols);
      float* out = y + first * rows + row;
      const MatmulKernels& k = kernels().matmul;
      if (columns.exact()) {
        k.strip_exact(s.format, data, columns.cols, x + first * columns.cols, columns.cols, meta,
                      static_cast<int>(last - first), out, rows, valid);
      } else {
        k.strip(s.format, data, columns.cols, columns.codes(const_cast<uint8_t*>(at)) + first * columns.cols, meta,
                static_cast<int>(last - first), out, rows, valid);
      }
      if (s.row_scales != nullptr)
        multiply_rows(out, rows, last - first, s.row_scales + number * kStripRows, valid);
      if (s.scale != 1.0f) multiply(out, rows, last - first, s.scale, valid);
      if (bias != nullptr) add_bias(out, rows, last - first, bias + row, valid);
      return;
    }
  }

  void run(const uint8_t* at, int member, int members) const {
    const long tile = std::clamp<long>(kTileBytes / columns.cols / 8 * 8, 8, columns.tokens);
    const long tiles = (columns.tokens + tile - 1) / tile;
    const long grain = std::max<long>(1, strips / (members * kTurns));
    const long runs = (strips + grain - 1) / grain;
    queue->each(tiles * runs, 1, member, [&](long item, long) {
      const long t = item / runs * tile, last = std::min(t + tile, columns.tokens);
      const long from = item % runs * grain, to = std::min(from + grain, strips);
      for (long s = from; s < to; ++s) strip(s, at, t, last);
    });
  }
};

}  // namespace

Instruction linear(const std::shared_ptr<Stream>& stream, std::vector<Segment> segments, long cols, const float* x,
                   long tokens, const float* bias, float* y, Operands operands) {
  Product product{stream, std::move(segments), {cols, tokens, operands}, x, bias, y};
  for (const Segment& s : product.segments) {
    product.rows += s.rows;
    product.strips += (s.rows + kStripRows - 1) / kStripRows;
  }
  const size_t bytes = (product.columns.bytes() + 63) / 64 * 64;
  if (tokens * cols <= kOwnCopy) {
    stream->reserve(bytes * stream->threads());
    return {"linear", {[product, bytes](int member, int members) {
              uint8_t* mine = product.stream->scratch() + bytes * member;
              product.columns.fill(mine, product.x, 0, product.columns.tokens);
              product.run(mine, member, members);
            }}};
  }
  stream->reserve(bytes);
  return {"linear",
          {[product](int member, int members) {
             const Share part = share(product.columns.tokens, member, members);
             product.columns.fill(product.stream->scratch(), product.x, part.first, part.last);
           },
           [product](int member, int members) { product.run(product.stream->scratch(), member, members); }}};
}

Instruction dense_linear(const Stream& stream, const float* w, long rows, long cols, const float* x, long tokens,
                         const float* bias, float* y) {
  auto queue = std::make_shared<WorkQueue>(stream.threads());
  return {"linear", {[=](int member, int members) {
            const long grain = std::max<long>(4, rows / (members * kTurns));
            queue->each(rows, grain, member, [&](long first, long last) {
              kernels().matmul.dense(w, cols, first, last, x, static_cast<int>(tokens), y, rows);
              if (bias != nullptr) add_bias(y + first, rows, tokens, bias + first, last - first);
            });
          }}};
}

Instruction packed_rows(Packed format, const uint8_t* table, long cols, const int64_t* ids, long tokens, float scale,
                        float* y) {
  return {"embedding", {[=](int member, int members) {
            const Share part = share(tokens, member, members);
            for (long t = part.first; t < part.last; ++t) {
              unpack_row(format, table, cols, ids[t], y + t * cols);
              if (scale != 1.0f)
                for (long k = 0; k < cols; ++k) y[t * cols + k] *= scale;
            }
          }}};
}

}  // namespace twofold
