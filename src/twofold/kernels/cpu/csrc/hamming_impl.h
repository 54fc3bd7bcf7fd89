// Attention by Hamming distance, written once over `Vec`. See hamming_kernels.h for the layout.
//
// Distances are small whole numbers, so that a histogram of them says which are kept and what all weights add up to.
// They are computed twice, once to count them and once to add values up, since that is cheaper than keeping them.
#pragma once

#include "attention_kernels.h"
#include "attention_store.h"
#include "attention_unpack.h"
#include "hamming_kernels.h"
#include "simd.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int kWords = kMaxHeadDim / 64;

// The signs of one vector, packed; the last word is filled with zeros.
inline void pack_signs(const HammingSigns& signs, const float* x, int head, int dim, uint64_t* words) {
  alignas(64) float turned[kMaxHeadDim];
  const float* threshold = signs.threshold ? signs.threshold + static_cast<long>(head) * dim : nullptr;
  for (int d = 0; d < dim; d += kLanes) {
    const int count = smaller(kLanes, dim - d);
    Vec sum = signs.map ? zero() : load(x + d, count);
    if (signs.map) {
      const float* column = signs.map + static_cast<long>(head) * dim * dim + d;
      for (int i = 0; i < dim; ++i, column += dim) sum = fma(set1(x[i]), load(column, count), sum);
    }
    store(turned + d, threshold ? sub(sum, load(threshold + d, count)) : sum, count);
  }
  for (int word = 0; word * 64 < dim; ++word) {
    const int count = smaller(64, dim - word * 64);
    uint64_t bits = 0;
    for (int i = 0; i < count; ++i) bits |= static_cast<uint64_t>(turned[word * 64 + i] >= 0.0f) << i;
    words[word] = bits;
  }
}

void write_signs(const HammingWriteArgs& a, long first, long last) {
  const HammingCache& c = a.cache;
  for (long pair = first; pair < last; ++pair) {
    const long token = pair / c.kv_heads, slot = a.slots[token];
    const int head = static_cast<int>(pair % c.kv_heads);
    const long at = (slot / c.block_size * c.kv_heads + head) * c.block_size + slot % c.block_size;
    uint64_t words[kWords];
    pack_signs(a.signs, a.k + token * a.k_stride + static_cast<long>(head) * c.dim, head, c.dim, words);
    std::memcpy(c.codes + at * (c.dim / 8), words, c.dim / 8);
    store_f16(a.v + token * a.v_stride + static_cast<long>(head) * c.v_dim, c.v_dim, c.values + at * c.v_dim, 1);
  }
}

constexpr int kRun = 256;  // entries whose distances are held at a time

// Bits in which keys of Bytes (0: of `bytes`) differ from the query: entries first … last - 1 of one KV head.
template <int Bytes>
inline void distances(const HammingCache& c, int head, const int32_t* blocks, int first, int last,
                      const uint64_t* query, uint16_t* found) {
  const int bytes = Bytes ? Bytes : c.dim / 8;
  for (int entry = first; entry < last;) {
    const int in_block = entry % c.block_size, count = smaller(c.block_size - in_block, last - entry);
    const long at = (static_cast<long>(blocks[entry / c.block_size]) * c.kv_heads + head) * c.block_size + in_block;
    const uint8_t* key = c.codes + at * bytes;
    for (int i = 0; i < count; ++i, key += bytes) {
      int differ = 0;
      for (int byte = 0, word = 0; byte < bytes; byte += 8, ++word) {
        uint64_t bits = 0;
        std::memcpy(&bits, key + byte, Bytes ? 8 : smaller(8, bytes - byte));
        differ += __builtin_popcountll(bits ^ query[word]);
      }
      *found++ = static_cast<uint16_t>(differ);
    }
    entry += count;
  }
}

inline float capped(float x, float cap) { return cap == 0.0f ? x : cap * std::tanh(x / cap); }

// out[0 … dim) += weight * value, in whole vectors as far as they go.
inline void add_value(const half* value, float weight, int dim, float* out) {
  const Vec w = set1(weight);
  int d = 0;
  for (; d + kLanes <= dim; d += kLanes) store(out + d, fma(w, load_half(value + d), load(out + d)));
  for (; d < dim; ++d) out[d] += weight * half_value(value[d]);
}

template <int Bytes>
void attend_bytes(const HammingArgs& a, const int32_t* blocks, long token, int position, int head) {
  constexpr int kCounters = 4;  // neighbouring entries often differ by as many bits: they count in different places
  const HammingCache& c = a.cache;
  const int kv_head = head / (a.heads / c.kv_heads);
  const int begin = a.window == 0 ? 0 : larger(0, position + 1 - a.window), seen = position + 1 - begin;
  uint64_t query[kWords];
  pack_signs(a.signs, a.q + token * a.q_stride + static_cast<long>(head) * c.dim, head, c.dim, query);

  uint32_t counts[kCounters][kMaxHeadDim + 1];
  for (auto& each : counts) std::memset(each, 0, sizeof(uint32_t) * (c.dim + 1));
  uint16_t found[kRun];
  for (int first = begin; first <= position; first += kRun) {
    const int count = smaller(kRun, position + 1 - first);
    distances<Bytes>(c, kv_head, blocks, first, first + count, query, found);
    for (int i = 0; i < count; ++i) ++counts[i % kCounters][found[i]];
  }

  // Distances below `limit` are kept, and of those that are equal to it all but the first `passed`.
  const long share = static_cast<long>(a.n) * seen / a.context;
  const long wanted = smaller(seen, larger(a.n, static_cast<int>(share)));
  float weights[kMaxHeadDim + 1];
  float total = 0.0f, maximum = 0.0f;
  long kept = 0, passed = 0;
  int limit = -1;
  while (kept < wanted) {
    ++limit;
    const long equal = static_cast<long>(counts[0][limit]) + counts[1][limit] + counts[2][limit] + counts[3][limit];
    if (equal == 0) continue;
    const float score = capped(a.scale[head] * static_cast<float>(c.dim - 2 * limit), a.softcap);
    if (kept == 0) maximum = score;
    const long take = equal < wanted - kept ? equal : wanted - kept;
    weights[limit] = std::exp(score - maximum);
    total += weights[limit] * static_cast<float>(take);
    kept += take;
    passed = equal - take;
  }

  alignas(64) float sums[kMaxHeadDim];
  std::memset(sums, 0, sizeof(float) * c.v_dim);
  for (int first = begin; first <= position; first += kRun) {
    const int count = smaller(kRun, position + 1 - first);
    distances<Bytes>(c, kv_head, blocks, first, first + count, query, found);
    int near[kRun], num_near = 0;  // without a branch: which entries are near is anybody's guess
    for (int i = 0; i < count; ++i) {
      near[num_near] = i;
      num_near += found[i] <= limit;
    }
    for (int n = 0; n < num_near; ++n) {
      const int bits = found[near[n]], entry = first + near[n];
      if (bits == limit && passed-- > 0) continue;
      const long block = blocks[entry / c.block_size];
      const long at = (block * c.kv_heads + kv_head) * c.block_size + entry % c.block_size;
      add_value(c.values + at * c.v_dim, weights[bits], c.v_dim, sums);
    }
  }
  float* out = a.out + (token * a.heads + head) * c.v_dim;
  for (int d = 0; d < c.v_dim; ++d) out[d] = sums[d] / total;
}

void attend_signs(const HammingArgs& a, const int32_t* blocks, long token, int position, int head) {
  const auto kernel = a.cache.dim == 64 ? attend_bytes<8> : a.cache.dim == 128 ? attend_bytes<16> : attend_bytes<0>;
  kernel(a, blocks, token, position, head);
}

}  // namespace

inline HammingKernels hamming_kernels() { return {write_signs, attend_signs}; }

}  // namespace twofold::TWOFOLD_ISA
