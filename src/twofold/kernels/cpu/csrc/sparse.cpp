#include "sparse.h"

#include <algorithm>

#include "kernels.h"
#include "work.h"

namespace twofold {

namespace {

// Rows of a tile that a member takes at a time: enough that bringing the inputs together costs little beside them.
constexpr int kRows = 64;

struct Piece {
  int tile, first, last;
};

struct SparseProduct {
  std::vector<SparseTile> tiles;
  std::vector<Piece> pieces;
  long cols, rows, tokens;
  const float* x;
  const float* bias;
  float* y;
  int widest = 0;  // inputs of a tile, at most
  std::shared_ptr<WorkQueue> queue = nullptr;

  bool few() const { return tokens <= kFewTokens; }
  size_t inputs_bytes() const {
    const size_t floats = few() ? static_cast<size_t>(tokens) * stride(widest) : static_cast<size_t>(widest) * kTokenChunk;
    return (floats * sizeof(float) + 63) / 64 * 64;
  }
  size_t bytes() const { return inputs_bytes() + (few() ? 0 : (static_cast<size_t>(widest) + 8 + 15) / 16 * 64); }
  static long stride(int count) { return (count + kSparsePadding - 1) / kSparsePadding * kSparsePadding + kSparsePadding; }

  void gather(const SparseTile& tile, float* to) const {
    for (long t = 0; t < tokens; ++t, to += stride(tile.cols)) {
      const float* from = x + t * cols;
      if (tile.inputs == nullptr) {
        std::copy(from, from + tile.cols, to);
      } else {
        for (int c = 0; c < tile.cols; ++c) to[c] = from[tile.inputs[c]];
      }
      std::fill(to + tile.cols, to + stride(tile.cols), 0.0f);
    }
  }
  void gather_transposed(const SparseTile& tile, long first, int count, float* to) const {
    for (int c = 0; c < tile.cols; ++c, to += kTokenChunk) {
      const float* from = x + first * cols + (tile.inputs == nullptr ? c : tile.inputs[c]);
      for (int t = 0; t < count; ++t) to[t] = from[t * cols];
      std::fill(to + count, to + kTokenChunk, 0.0f);
    }
  }

  void run(uint8_t* scratch, int member) const {
    const SparseKernels& k = kernels().sparse;
    auto* inputs = reinterpret_cast<float*>(scratch);
    const long count = static_cast<long>(pieces.size());
    if (few()) {
      queue->each(count, 1, member, [&](long item, long) {
        const Piece& p = pieces[item];
        const SparseTile& tile = tiles[p.tile];
        gather(tile, inputs);
        k.few(tile, p.first, p.last, inputs, stride(tile.cols), static_cast<int>(tokens), bias, y, rows);
      });
      return;
    }
    auto* list = reinterpret_cast<int32_t*>(scratch + inputs_bytes());
    const long chunks = (tokens + kTokenChunk - 1) / kTokenChunk;
    queue->each(chunks * count, 1, member, [&](long item, long) {
      const Piece& p = pieces[item % count];
      const SparseTile& tile = tiles[p.tile];
      const long first = item / count * kTokenChunk;
      const int some = static_cast<int>(std::min<long>(kTokenChunk, tokens - first));
      gather_transposed(tile, first, some, inputs);
      k.many(tile, p.first, p.last, inputs, some, list, bias, y + first * rows, rows);
    });
  }
};

}  // namespace

Instruction sparse_linear(const std::shared_ptr<Stream>& stream, std::vector<SparseTile> tiles, long cols, long rows,
                          const float* x, long tokens, const float* bias, float* y) {
  SparseProduct product{std::move(tiles), {}, cols, rows, tokens, x, bias, y};
  product.queue = std::make_shared<WorkQueue>(stream->threads());
  long covered = 0;
  for (size_t i = 0; i < product.tiles.size(); ++i) {
    const SparseTile& tile = product.tiles[i];
    product.widest = std::max(product.widest, tile.cols);
    covered += tile.rows;
    for (int r = 0; r < tile.rows; r += kRows)
      product.pieces.push_back({static_cast<int>(i), r, std::min(r + kRows, tile.rows)});
  }
  const size_t bytes = product.bytes();
  stream->reserve(bytes * stream->threads());
  Instruction out{"linear", {}};
  if (covered < rows)
    out.phases.emplace_back([=](int member, int members) {
      const Share part = share(tokens, member, members);
      for (long t = part.first; t < part.last; ++t)
        for (long r = 0; r < rows; ++r) y[t * rows + r] = bias != nullptr ? bias[r] : 0.0f;
    });
  out.phases.emplace_back([product, stream, bytes](int member, int) {
    product.run(stream->scratch() + bytes * member, member);
  });
  return out;
}

}  // namespace twofold
