// Scores of cache entries, written once over `Vec`: the scores and the softmax of attention, whose weights are added up
// by key instead of multiplied with values.
#pragma once

#include <cmath>

#include "attention_impl.h"
#include "observe_kernels.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// A few rows over all partitions that they see. scores: of one partition after the other, rows of kScoreStride; tails:
// of each partition and row, the maximum and the sum of its weights.
struct ObservedRows {
  const ObserveArgs& args;
  AttentionItem item;
  float *q, *panel, *tails, *scores;

  int group() const { return args.attention.heads / args.attention.cache.kv_heads; }
  int rows() const { return item.queries * group(); }
  int parts() const { return partitions(item.position + item.queries); }
  float* tail(int part, int row) const { return tails + (part * kSmallTile + row) * 2; }
  Tile tile(int part) const {
    return {args.attention, item, group(), rows(), q, scores + static_cast<long>(part) * kSmallTile * kScoreStride, panel};
  }

  void weigh() const {
    const AttentionArgs& a = args.attention;
    const int head = item.kv_head * group();
    for (int row = 0; row < rows(); ++row) {
      const long at = static_cast<long>(head + row % group()) * a.cache.k.dim;
      stored_order(a.cache.format, a.q + (item.token + row / group()) * a.q_stride + at, a.cache.k.dim, a.scale,
                   q + row * kQueryStride);
    }
    for (int part = 0; part < parts(); ++part) {
      const Tile now = tile(part);
      const int base = part * kPartition;
      const KeyRange all = now.visible(0, rows(), base);
      score_panels(now, base, all);
      for (int row = 0; row < rows(); ++row)
        soften(now.scores + row * kScoreStride, now.visible(row, row + 1, base), all, a.softcap, tail(part, row));
    }
  }

  // Makes a row's sums of weights the factors that its weights are multiplied with.
  void normalise() const {
    for (int row = 0; row < rows(); ++row) {
      float top = -3.0e38f, total = 0.0f;
      for (int part = 0; part < parts(); ++part)
        if (tail(part, row)[1] > 0.0f && tail(part, row)[0] > top) top = tail(part, row)[0];
      for (int part = 0; part < parts(); ++part) {
        float* end = tail(part, row);
        end[0] = end[1] > 0.0f ? std::exp(end[0] - top) : 0.0f;
        total += end[0] * end[1];
      }
      for (int part = 0; part < parts(); ++part) tail(part, row)[1] = tail(part, row)[0] / total;
    }
  }

  void add() const {
    const PagedCache& cache = args.attention.cache;
    alignas(64) float sums[kPartition];
    for (int part = 0; part < parts(); ++part) {
      const int base = part * kPartition;
      const Tile now = tile(part);
      const KeyRange all = now.visible(0, rows(), base);
      for (int key = 0; key < all.last; key += kLanes) {
        Vec sum = zero();
        for (int row = 0; row < rows(); ++row)
          sum = fma(load(now.scores + row * kScoreStride + key), set1(tail(part, row)[1]), sum);
        store(sums + key, sum);
      }
      for (int key = 0; key < all.last; ++key) {
        const int entry = base + key;
        const long slot = static_cast<long>(item.blocks[entry / cache.block_size]) * cache.block_size;
        args.scores[(slot + entry % cache.block_size) * cache.kv_heads + item.kv_head] += sums[key];
      }
    }
  }
};

void observe(const ObserveArgs& args, const AttentionItem& item, float* scratch) {
  const int dim = args.attention.cache.k.dim;
  ObservedRows rows{args, item, scratch, nullptr, nullptr, nullptr};
  rows.panel = rows.q + kSmallTile * kQueryStride;
  rows.tails = rows.panel + kChunk * padded(dim);
  rows.scores = rows.tails + partitions(item.position + item.queries) * kSmallTile * 2;
  const int step = larger(1, kSmallTile / rows.group());
  for (int first = 0; first < item.queries; first += step) {
    rows.item = item;
    rows.item.token += first;
    rows.item.position += first;
    rows.item.queries = smaller(step, item.queries - first);
    rows.weigh();
    rows.normalise();
    rows.add();
  }
}

}  // namespace

inline ObserveKernels observe_kernels() { return {observe}; }

}  // namespace twofold::TWOFOLD_ISA
