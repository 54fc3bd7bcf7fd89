#include "prefill.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "attention.h"
#include "kernels.h"

namespace twofold {

size_t estimate_scratch(int k_dim, int rows, int keys) {
  const size_t stride = (keys + kColumnPanel - 1) / kColumnPanel * kColumnPanel;
  const size_t queries = static_cast<size_t>(rows) * (kMaxHeadDim + 16);
  return queries + static_cast<size_t>(kColumnPanel) * padded(k_dim) + rows * stride;
}

namespace {

// Positions of the `most` highest scores, highest first, of equals the lower one.
std::vector<int32_t> ranking(const float* scores, int count, int most) {
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  most = std::min(most, count);
  const auto better = [scores](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; };
  std::nth_element(order.begin(), order.begin() + most, order.end(), better);
  order.resize(most);
  std::sort(order.begin(), order.end(), better);
  return order;
}

// The groups that a tile reads.
class Groups {
 public:
  explicit Groups(int keys) : marks_((keys + kPrefillGroup - 1) / kPrefillGroup) {}

  // Keys first … end - 1, as far as there are any.
  void add(int first, int end) {
    const int last = (std::max(0, end) + kPrefillGroup - 1) / kPrefillGroup;
    for (int group = std::max(0, first) / kPrefillGroup; group < last; ++group) {
      count_ += marks_[group] == 0;
      marks_[group] = 1;
    }
  }
  int keys() const { return count_ * kPrefillGroup; }
  bool has(int key) const { return marks_[key / kPrefillGroup] != 0; }
  void append_to(std::vector<int32_t>& groups) const {
    for (size_t i = 0; i < marks_.size(); ++i)
      if (marks_[i] != 0) groups.push_back(static_cast<int32_t>(i));
  }

 private:
  std::vector<char> marks_;
  int count_ = 0;
};

// Takes what a tile of queries start … end - 1 reads into `index`.
void take(HeadIndex& index, const Groups& read, int start, int end) {
  const size_t before = index.groups.size();
  read.append_to(index.groups);
  index.ends.push_back(static_cast<int32_t>(index.groups.size()));
  long keys = 0;
  for (size_t i = before; i < index.groups.size(); ++i)
    keys += std::min(kPrefillGroup, end - index.groups[i] * kPrefillGroup);
  for (const int32_t column : index.columns) keys += column < end && !read.has(column);
  index.pairs += keys * (end - start);
}

// What the tiles of one head of one sequence read.
void choose(HeadIndex& index, const AttentionArgs& args, const Sequence& s, const int32_t* blocks, int head,
            const PrefillPlan& plan, float* scratch) {
  const HeadPattern& pattern = plan.patterns[head];
  const int tiles = plan.tiles(s), count = (s.keys + plan.tile - 1) / plan.tile;
  std::vector<float> products;
  std::vector<int32_t> lines;
  if (pattern.kind == HeadKind::vertical_slash) {
    std::vector<float> columns(s.keys + 16), diagonals(s.keys + 16);
    kernels().prefill.estimate(args, s, blocks, head, plan.last, columns.data(), diagonals.data(), scratch);
    std::reverse(diagonals.begin(), diagonals.begin() + s.keys);
    std::fill_n(columns.begin(), std::min(plan.first, s.keys), 3.0e38f);
    index.columns = ranking(columns.data(), s.keys, pattern.vertical);
    std::sort(index.columns.begin(), index.columns.end());
    lines = ranking(diagonals.data(), s.keys, pattern.slash);
  } else if (pattern.kind == HeadKind::block_sparse) {
    std::vector<float> means(static_cast<size_t>(tiles) * args.cache.k.dim);
    products.resize(static_cast<size_t>(tiles) * count);
    kernels().prefill.pool(args, s, blocks, head, plan.tile, means.data(), products.data(), scratch);
  }
  for (int tile = 0; tile < tiles; ++tile) {
    const int start = s.keys - s.queries + tile * plan.tile, end = std::min(start + plan.tile, s.keys);
    Groups read(s.keys);
    if (pattern.kind == HeadKind::a_shape) {
      read.add(0, std::min(pattern.vertical, end));
      read.add(end - pattern.slash, end);
    } else if (pattern.kind == HeadKind::vertical_slash) {
      read.add(start - plan.local + 1, end);
      for (size_t i = 0; i < lines.size() && read.keys() < pattern.slash; ++i)
        read.add(start - lines[i], end - lines[i]);
    } else {
      read.add(start, end);
      const int seen = (end + plan.tile - 1) / plan.tile;
      const auto best = ranking(products.data() + static_cast<size_t>(tile) * count, seen, pattern.keys() / plan.tile);
      for (size_t i = 0; i < best.size() && read.keys() < pattern.keys(); ++i)
        read.add(best[i] * plan.tile, std::min((best[i] + 1) * plan.tile, end));
    }
    take(index, read, start, end);
  }
}

// One head of one sequence: chooses, then widens the columns.
void index_head(HeadIndex& found, const AttentionArgs& args, const Sequence& s, const int32_t* blocks, int head,
                const PrefillPlan& plan, float* scratch) {
  choose(found, args, s, blocks, head, plan, scratch);
  const size_t count = found.columns.size(), panels = (count + kColumnPanel - 1) / kColumnPanel;
  found.column_keys.assign(panels * kColumnPanel * args.cache.k.dim, 0.0f);
  found.column_values.resize(count * padded(args.cache.v.dim));
  kernels().prefill.gather(args, blocks, head, found.widened(), scratch);
}

// Distinct entries that heads first … last - 1 read.
long entries_read(const std::vector<HeadIndex>& heads, int first, int last, int keys) {
  std::vector<char> read(keys + kPrefillGroup, 0);
  for (int head = first; head < last; ++head) {
    for (const int32_t group : heads[head].groups) std::fill_n(read.begin() + group * kPrefillGroup, kPrefillGroup, 1);
    for (const int32_t column : heads[head].columns) read[column] = 1;
  }
  return std::count(read.begin(), read.begin() + keys, 1);
}

size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }

}  // namespace

std::shared_ptr<PrefillIndex> make_index(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans,
                                         PrefillPlan plan) {
  auto index = std::make_shared<PrefillIndex>();
  int most = 0;
  for (size_t i = 0; i < spans->sequences.size(); ++i) {
    if (!plan.is_sparse(spans->sequences[i])) continue;
    index->sequences.push_back(i);
    most = std::max(most, spans->sequences[i].keys);
  }
  index->heads.assign(index->sequences.size(), std::vector<HeadIndex>(args.heads));
  index->plan = std::move(plan);
  const size_t member_floats = rounded(std::max(estimate_scratch(args.cache.k.dim, index->plan.last, most),
                                                attention_scratch(args.cache.k.dim, args.cache.v.dim)));
  stream.reserve(member_floats * sizeof(float) * stream.threads());
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const Stream* owner = &stream;
  stream.submit({"attention-index", {[=](int member, int) {
                   float* scratch = reinterpret_cast<float*>(owner->scratch()) + member_floats * member;
                   const long total = static_cast<long>(index->sequences.size()) * args.heads;
                   queue->each(total, 1, member, [&](long item, long) {
                     const long nth = item / args.heads;
                     const int head = static_cast<int>(item % args.heads);
                     const Sequence& s = spans->sequences[index->sequences[nth]];
                     index_head(index->heads[nth][head], args, s, spans->blocks.data() + s.table, head, index->plan,
                                scratch);
                   });
                 }}});
  const int group = args.heads / args.cache.kv_heads;
  for (size_t i = 0; i < index->heads.size(); ++i) {
    for (const HeadIndex& head : index->heads[i]) index->pairs += head.pairs;
    for (int kv = 0; kv < args.cache.kv_heads; ++kv)
      index->entries += entries_read(index->heads[i], kv * group, (kv + 1) * group,
                                     spans->sequences[index->sequences[i]].keys);
  }
  return index;
}

void submit_prefill(Stream& stream, const AttentionArgs& args, std::shared_ptr<Spans> spans,
                    std::shared_ptr<PrefillIndex> index) {
  const auto others = std::make_shared<Spans>();
  others->clear(spans->block_size);
  others->blocks = spans->blocks;
  for (size_t i = 0; i < spans->sequences.size(); ++i) {
    if (std::count(index->sequences.begin(), index->sequences.end(), i) != 0) continue;
    const Sequence& s = spans->sequences[i];
    others->add(s.queries, s.keys, s.table, s.row, s.drafts);
    others->sequences.back().token = s.token;
  }
  if (!others->sequences.empty()) submit_attention(stream, args, others);
  const size_t member_floats = rounded(attention_scratch(args.cache.k.dim, args.cache.v.dim));
  stream.reserve(member_floats * sizeof(float) * stream.threads());
  const auto queue = std::make_shared<WorkQueue>(stream.threads());
  const Stream* owner = &stream;
  const auto tile_of = [=](long at, float* scratch) {
    const PrefillPlan& plan = index->plan;
    size_t nth = 0;
    const auto items = [&] {
      return static_cast<long>(plan.tiles(spans->sequences[index->sequences[nth]])) * args.heads;
    };
    for (long count = items(); at >= count; at -= count, ++nth, count = items()) {
    }
    const Sequence& s = spans->sequences[index->sequences[nth]];
    const int tiles = plan.tiles(s), tile = static_cast<int>(at % tiles), head = static_cast<int>(at / tiles);
    const int from = tile * plan.tile;
    HeadIndex& found = index->heads[nth][head];
    const int32_t* groups = found.groups.data();
    kernels().prefill.attend(args,
                             {head, s.token + from, std::min(plan.tile, s.queries - from), s.keys - s.queries + from,
                              spans->blocks.data() + s.table, found.widened(),
                              groups + (tile == 0 ? 0 : found.ends[tile - 1]), groups + found.ends[tile]},
                             scratch);
  };
  stream.submit({"attention", {[=](int member, int) {
                   float* scratch = reinterpret_cast<float*>(owner->scratch()) + member_floats * member;
                   long total = 0;
                   for (const size_t i : index->sequences)
                     total += static_cast<long>(index->plan.tiles(spans->sequences[i])) * args.heads;
                   queue->each(total, 1, member, [&](long at, long) { tile_of(at, scratch); });
                 }}});
}

}  // namespace twofold
