#include "observe.h"

#include <algorithm>
#include <utility>

#include "kernels.h"

namespace twofold {

size_t observe_scratch(int k_dim, int keys) {
  constexpr size_t kPanelKeys = 64;  // kChunk of attention_unpack.h
  const size_t rows = (kMaxHeadDim + 16) + static_cast<size_t>(partitions(keys)) * (kPartition + 16 + 2);
  return kSmallTile * rows + kPanelKeys * padded(k_dim);
}

namespace {

void observe_sequence(const ObserveArgs& args, const Sequence& s, const int32_t* blocks, const Watched& watched,
                      int head, float* scratch) {
  const PagedCache& cache = args.attention.cache;
  const int base = s.keys - s.queries;
  for (int entry = watched.begins ? 0 : base; entry < s.keys; ++entry) {
    const long slot = static_cast<long>(blocks[entry / cache.block_size]) * cache.block_size + entry % cache.block_size;
    args.scores[slot * cache.kv_heads + head] = 0.0f;
  }
  if (watched.last <= watched.first) return;
  AttentionItem item{};
  item.kv_head = head;
  item.token = s.token + watched.first;
  item.queries = watched.last - watched.first;
  item.position = base + watched.first;
  item.blocks = blocks;
  kernels().observe.observe(args, item, scratch);
}

}  // namespace

void submit_observe(Stream& stream, const ObserveArgs& args, std::shared_ptr<Spans> spans,
                    std::vector<Watched> watched) {
  int longest = 1;
  for (const Sequence& s : spans->sequences) longest = std::max(longest, s.keys);
  const size_t floats = (observe_scratch(args.attention.cache.k.dim, longest) + 15) / 16 * 16;
  stream.reserve(floats * sizeof(float) * stream.threads());
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const Stream* owner = &stream;
  stream.submit({"key-scores", {[=, watched = std::move(watched)](int member, int) {
                   float* scratch = reinterpret_cast<float*>(owner->scratch()) + floats * member;
                   const long heads = args.attention.cache.kv_heads;
                   queue->each(static_cast<long>(spans->sequences.size()) * heads, 1, member, [&](long item, long) {
                     const size_t at = static_cast<size_t>(item / heads);
                     const Sequence& s = spans->sequences[at];
                     if (watched[at].last < 0) return;
                     observe_sequence(args, s, spans->blocks.data() + s.table, watched[at],
                                      static_cast<int>(item % heads), scratch);
                   });
                 }}});
}

}  // namespace twofold
