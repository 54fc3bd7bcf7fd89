#include "schedule.h"

#include <algorithm>
#include <utility>

#include "kernels.h"

namespace twofold {

size_t keys_outside_scratch(int k_dim, int v_dim, int queries) {
  const size_t tile = kTileRows * ((kMaxHeadDim + 16) + (kPartition + 16) + static_cast<size_t>(state_floats(v_dim)));
  return tile + static_cast<size_t>(kMostBlockKeys) * (padded(k_dim) + padded(v_dim)) +
         static_cast<size_t>(queries) * state_floats(v_dim);
}

namespace {

size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }

// Memory that grows with the sequences of a step, which are known only when it runs.
struct Growing {
  std::vector<float> floats;
  size_t each = 0;

  void fit(size_t floats_each, int members) {
    each = rounded(floats_each);
    if (floats.size() < each * members) floats.resize(each * members);
  }
  float* of(int member) { return floats.data() + each * member; }
};

// Partitions first … last - 1 of an output (sequence, KV head), which one worker goes over; `state` is the number of
// the first state that it leaves, one for each head of the group.
struct Segment {
  size_t sequence;
  int head, first, last;
  long state;
};

// An output and its states.
struct Output {
  size_t sequence;
  int head;
  long state;
  int count;
};

struct Deal {
  std::vector<std::vector<Segment>> workers;
  std::vector<Output> outputs;
  std::vector<float> states;
  std::vector<std::pair<size_t, int>> prompts;  // (sequence, tile of queries)

  void make(const Spans& spans, const AttentionArgs& args, int tile, int most_workers, int query_tile) {
    workers.clear();
    outputs.clear();
    prompts.clear();
    const int group = args.heads / args.cache.kv_heads;
    long total = 0;
    for (const Sequence& s : spans.sequences)
      if (s.queries == 1) total += static_cast<long>(tiles_of(s, tile)) * args.cache.kv_heads;
    const long count = std::max(1L, std::min<long>(most_workers, total));
    workers.resize(count);
    long at = 0, worker = 0, state = 0;
    for (size_t i = 0; i < spans.sequences.size(); ++i) {
      const Sequence& s = spans.sequences[i];
      if (s.queries > 1) {
        for (int from = 0; from < s.queries; from += query_tile) prompts.emplace_back(i, from);
        continue;
      }
      const int tiles = tiles_of(s, tile), per = tile / kPartition;
      for (int head = 0; head < args.cache.kv_heads; ++head) {
        outputs.push_back({i, head, state, 0});
        for (int first = 0; first < tiles;) {
          const long end = total * (worker + 1) / count;
          const int take = static_cast<int>(std::min<long>(tiles - first, end - at));
          if (take > 0) {
            workers[worker].push_back({i, head, first * per, std::min((first + take) * per, partitions(s.keys)), state});
            state += group;
            ++outputs.back().count;
          }
          first += take;
          at += take;
          if (at == end && worker + 1 < count) ++worker;
        }
      }
    }
    const size_t floats = static_cast<size_t>(state) * state_floats(args.cache.v.dim);
    if (states.size() < floats) states.resize(floats);
  }

  static int tiles_of(const Sequence& s, int tile) { return (s.keys + tile - 1) / tile; }
};

AttentionItem item_of(const Spans& spans, const Sequence& s, int head, int from, int queries) {
  AttentionItem item{};
  item.kv_head = head;
  item.blocks = spans.blocks.data() + s.table;
  item.row = s.row;
  item.start = s.token;
  item.base = s.keys - s.queries;
  item.token = s.token + from;
  item.queries = queries;
  item.position = item.base + from;
  item.last = partitions(item.position + queries);
  return item;
}

}  // namespace

void submit_keys_outside(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans, int key_block,
                         int query_block) {
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const auto memory = std::make_shared<Growing>();
  const auto prepare = [=](int member, int members) {
    if (member != 0) return;
    int most = 0;
    for (const Sequence& s : spans->sequences) most = std::max(most, s.queries);
    memory->fit(keys_outside_scratch(args.cache.k.dim, args.cache.v.dim, most), members);
  };
  const auto attend = [=](int member, int) {
    queue->each(static_cast<long>(spans->sequences.size()) * args.heads, 1, member, [&](long item, long) {
      const Sequence& s = spans->sequences[item / args.heads];
      kernels().schedule.keys_outside(args, s, spans->blocks.data() + s.table, static_cast<int>(item % args.heads),
                                      key_block, query_block, memory->of(member));
    });
  };
  stream.submit({"attention", {prepare, attend}});
}

void submit_lean_attention(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans, int tile,
                           int workers) {
  const size_t member_floats = rounded(attention_scratch(args.cache.k.dim, args.cache.v.dim));
  stream.reserve(member_floats * sizeof(float) * stream.threads());
  const int group = args.heads / args.cache.kv_heads, stride = state_floats(args.cache.v.dim);
  const int query_tile = std::max(1, kTileRows / group);
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const auto deal = std::make_shared<Deal>();
  const Stream* owner = &stream;
  const auto prepare = [=](int member, int) {
    if (member == 0) deal->make(*spans, args, tile, workers, query_tile);
  };
  const auto attend = [=](int member, int) {
    float* scratch = reinterpret_cast<float*>(owner->scratch()) + member_floats * member;
    const long dealt = static_cast<long>(deal->workers.size()), kv = args.cache.kv_heads;
    queue->each(dealt + static_cast<long>(deal->prompts.size()) * kv, 1, member, [&](long index, long) {
      if (index >= dealt) {
        const auto [at, from] = deal->prompts[(index - dealt) / kv];
        const Sequence& s = spans->sequences[at];
        const int queries = std::min(query_tile, s.queries - from);
        kernels().attention.attend(args, item_of(*spans, s, static_cast<int>((index - dealt) % kv), from, queries), scratch);
        return;
      }
      for (const Segment& segment : deal->workers[index]) {
        AttentionItem item = item_of(*spans, spans->sequences[segment.sequence], segment.head, 0, 1);
        item.first = segment.first;
        item.last = segment.last;
        item.partial = deal->states.data() + segment.state * stride;
        kernels().schedule.stretch(args, item, scratch);
      }
    });
  };
  const auto combine = [=](int member, int members) {
    const Share mine = share(static_cast<long>(deal->outputs.size()), member, members);
    for (long i = mine.first; i < mine.last; ++i) {
      const Output& output = deal->outputs[i];
      const Sequence& s = spans->sequences[output.sequence];
      for (int head = 0; head < group; ++head)
        kernels().attention.combine(
            deal->states.data() + (output.state + head) * stride, static_cast<long>(group) * stride, output.count,
            args.cache.v.dim,
            args.out + (static_cast<long>(s.token) * args.heads + output.head * group + head) * args.cache.v.dim);
    }
  };
  stream.submit({"attention", {prepare, attend, combine}});
}

}  // namespace twofold
