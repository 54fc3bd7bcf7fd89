#include "attention.h"

#include <algorithm>
#include <utility>

#include "kernels.h"

namespace twofold {

size_t attention_scratch(int k_dim, int v_dim) {
  const size_t rows = (kMaxHeadDim + 16) + (kPartition + 16) + 2 * state_floats(v_dim);  // queries, scores, two states
  constexpr size_t kPanelKeys = 64;  // kChunk of attention_unpack.h
  return kTileRows * rows + kPanelKeys * static_cast<size_t>(std::max(padded(k_dim), padded(v_dim)));
}

namespace {

// How one sequence is cut into items: by partition where it has few rows, by tiles of queries otherwise. The result is
// the same either way, so that this is a matter of balance only.
struct Cut {
  bool split;
  int tile;   // queries of an item
  int tiles;
  int first;  // partition where what its first query sees begins
  int parts;  // partitions from there on

  Cut(const Sequence& s, int group, int window) {
    const int rows = s.queries * group;
    first = first_partition(s.keys - s.queries, window);
    parts = partitions(s.keys) - first;
    split = s.queries <= kMaxSplitQueries && rows <= kSmallTile && parts > 1;
    const int most = rows <= kSmallTile ? kTileRows : rows < 4 * kTileRows ? kSmallTile : kTileRows;
    tiles = (s.queries + std::max(1, most / group) - 1) / std::max(1, most / group);
    tile = (s.queries + tiles - 1) / tiles;  // of about the same size, for members get the same number of them
  }
  long items(int kv_heads) const { return static_cast<long>(split ? parts : tiles) * kv_heads; }

  static int first_partition(int position, int window) {
    return window == 0 ? 0 : std::max(0, position - window + 1) / kPartition;
  }
};

// Where the states of a (sequence, partition, KV head) lie; rows of a partition are together, those of its heads in
// order.
struct Partials {
  float* base;
  int heads, group, stride;

  float* at(const Sequence& s, int part, int kv_head) const {
    const long before = (s.unit + static_cast<long>(part) * s.queries) * heads;
    return base + (before + static_cast<long>(kv_head) * s.queries * group) * stride;
  }
  long distance(const Sequence& s) const { return static_cast<long>(s.queries) * heads * stride; }
};

AttentionItem item_of(const AttentionArgs& a, const Spans& spans, const Sequence& s, const Cut& cut, long index,
                      const Partials& partials) {
  const int kv_heads = a.cache.kv_heads;
  const int head = static_cast<int>(index % kv_heads), nth = static_cast<int>(index / kv_heads);
  AttentionItem item{};
  item.kv_head = head;
  item.blocks = spans.blocks.data() + s.table;
  item.row = s.row;
  item.start = s.token;
  item.base = s.keys - s.queries;
  if (cut.split) {
    item.token = s.token;
    item.queries = s.queries;
    item.position = s.keys - s.queries;
    item.first = cut.first + nth;
    item.last = item.first + 1;
    item.partial = partials.at(s, item.first, head);
    return item;
  }
  const int from = (cut.tiles - 1 - nth) * cut.tile;  // the tiles that see most come first: better balance
  item.queries = std::min(cut.tile, s.queries - from);
  item.token = s.token + from;
  item.position = s.keys - s.queries + from;
  item.first = Cut::first_partition(item.position, a.window);
  item.last = partitions(item.position + item.queries);
  return item;
}

void run_items(const AttentionArgs& a, const Spans& spans, WorkQueue& queue, int member, float* scratch,
               const Partials& partials) {
  const AttentionKernels& kernel = kernels().attention;
  long total = 0;
  for (const Sequence& s : spans.sequences) total += Cut(s, partials.group, a.window).items(a.cache.kv_heads);
  size_t at = 0;
  long base = 0;  // index of the first item of sequence `at`; a member's items go up until it takes others'
  queue.each(total, 1, member, [&](long index, long) {
    if (index < base) base = static_cast<long>(at = 0);
    for (;;) {
      const Sequence& s = spans.sequences[at];
      const Cut cut(s, partials.group, a.window);
      if (const long count = cut.items(a.cache.kv_heads); index >= base + count) {
        base += count;
        ++at;
        continue;
      }
      kernel.attend(a, item_of(a, spans, s, cut, index - base, partials), scratch);
      return;
    }
  });
}

void combine_rows(const AttentionArgs& a, const Spans& spans, int member, int members, const Partials& partials) {
  const AttentionKernels& kernel = kernels().attention;
  for (const Sequence& s : spans.sequences) {
    const Cut cut(s, partials.group, a.window);
    if (!cut.split) continue;
    const Share rows = share(static_cast<long>(s.queries) * a.heads, member, members);
    for (long row = rows.first; row < rows.last; ++row) {
      const long query = row / a.heads;
      const int head = static_cast<int>(row % a.heads), kv_head = head / partials.group;
      const float* states = partials.at(s, cut.first, kv_head) +
                            (query * partials.group + head % partials.group) * partials.stride;
      kernel.combine(states, partials.distance(s), cut.parts, a.cache.v.dim,
                     a.out + ((s.token + query) * a.heads + head) * a.cache.v.dim);
    }
  }
}

}  // namespace

void submit_cache_write(Stream& stream, const CacheWriteArgs& args, long tokens) {
  stream.submit({"cache-write", {[args, tokens](int member, int members) {
                   const Share part = share(tokens * args.cache.kv_heads, member, members);
                   kernels().attention.write(args, part.first, part.last);
                 }}});
}

void submit_grouped_write(Stream& stream, const GroupedWriteArgs& args, std::shared_ptr<Spans> spans) {
  const auto store = [args, spans](int member, int members) {
    const long heads = args.cache.kv_heads;
    const Share part = share(static_cast<long>(spans->sequences.size()) * heads, member, members);
    for (long item = part.first; item < part.last; ++item) {
      const Sequence& s = spans->sequences[item / heads];
      kernels().attention.write_grouped(args, s, spans->blocks.data() + s.table, static_cast<int>(item % heads));
    }
  };
  const auto count = [args, spans](int member, int) {
    if (member != 0) return;
    for (const Sequence& s : spans->sequences) args.cache.grouped.lengths[s.row] = s.keys - s.drafts;
  };
  stream.submit({"cache-write", {store, count}});
}

void submit_attention(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans) {
  const size_t member_floats = (attention_scratch(args.cache.k.dim, args.cache.v.dim) + 15) / 16 * 16;
  const int stride = state_floats(args.cache.v.dim), group = args.heads / args.cache.kv_heads;
  stream.reserve(member_floats * sizeof(float) * stream.threads());
  spans->reserve(static_cast<size_t>(args.heads) * stride);
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const Stream* owner = &stream;
  const auto partials = [=] { return Partials{spans->partials(), args.heads, group, stride}; };
  stream.submit({"attention",
                 {[=](int member, int) {
                    float* scratch = reinterpret_cast<float*>(owner->scratch()) + member_floats * member;
                    run_items(args, *spans, *queue, member, scratch, partials());
                  },
                  [=](int member, int members) { combine_rows(args, *spans, member, members, partials()); }}});
}

}  // namespace twofold
