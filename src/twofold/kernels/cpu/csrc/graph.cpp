#include "graph.h"

#include <algorithm>

#include "kernels.h"

namespace twofold {
namespace {

bool better(const GraphWalk::Found& a, const GraphWalk::Found& b) {
  return a.score != b.score ? a.score > b.score : a.key < b.key;
}

const float* vector_of(const Graph& graph, int32_t key) { return graph.keys + static_cast<long>(key) * graph.dim; }

int32_t* row_of(const Graph& graph, int32_t key) { return graph.neighbours + static_cast<long>(key) * graph.width; }

float likeness(const Graph& graph, int32_t a, int32_t b) {
  return kernels().graph.dot(vector_of(graph, a), vector_of(graph, b), graph.dim);
}

}  // namespace

const std::vector<GraphWalk::Found>& GraphWalk::search(const Graph& graph, const float* query, int list, long& seen,
                                                       int32_t skip) {
  if (static_cast<int32_t>(visited_.size()) < graph.count) visited_.resize(graph.count, 0);
  if (++round_ == 0) {
    std::fill(visited_.begin(), visited_.end(), 0u);
    round_ = 1;
  }
  found_.clear();
  const auto dot = kernels().graph.dot;
  size_t next = 0;  // nothing before it is left to expand
  const auto look = [&](int32_t key) {
    if (visited_[key] == round_) return;
    visited_[key] = round_;
    ++seen;
    const Found candidate{dot(query, vector_of(graph, key), graph.dim), key, false};
    if (static_cast<int>(found_.size()) == list && !better(candidate, found_.back())) return;
    const auto at = std::upper_bound(found_.begin(), found_.end(), candidate, better);
    const size_t index = at - found_.begin();
    if (static_cast<int>(found_.size()) == list) found_.pop_back();
    found_.insert(found_.begin() + index, candidate);
    next = std::min(next, index);
  };
  look(graph.entry);
  while (next < found_.size()) {
    if (found_[next].expanded) {
      ++next;
      continue;
    }
    found_[next].expanded = true;
    const int32_t* const row = row_of(graph, found_[next].key);
    for (int i = 0; i < graph.width; ++i)
      if (row[i] >= 0) look(row[i]);
  }
  if (skip >= 0)
    found_.erase(std::remove_if(found_.begin(), found_.end(), [&](const Found& f) { return f.key == skip; }),
                 found_.end());
  return found_;
}

// Of the candidates, best first, those that are not nearer to one that is kept already than to the key; then, as far as
// there is room, the best of the others.
void GraphWalk::choose(const Graph& graph, int32_t key, std::vector<Found>& candidates, int most) {
  std::sort(candidates.begin(), candidates.end(), better);
  chosen_.clear();
  for (Found& c : candidates) {
    if (static_cast<int>(chosen_.size()) == most) break;
    c.expanded = c.key == key || std::any_of(chosen_.begin(), chosen_.end(), [&](int32_t kept) {
                   return kept == c.key || likeness(graph, kept, c.key) > c.score;
                 });
    if (!c.expanded) chosen_.push_back(c.key);
  }
  for (const Found& c : candidates) {
    if (static_cast<int>(chosen_.size()) >= most) break;
    if (c.expanded && c.key != key && std::find(chosen_.begin(), chosen_.end(), c.key) == chosen_.end())
      chosen_.push_back(c.key);
  }
}

// Puts `to` among the neighbours first … last - 1 of `from`; where they are full, for the worst of them if it is better.
void GraphWalk::add(const Graph& graph, int32_t from, int32_t to, int first, int last) {
  if (from == to) return;
  int32_t* const row = row_of(graph, from);
  for (int i = 0; i < graph.width; ++i)
    if (row[i] == to) return;
  for (int i = first; i < last; ++i)
    if (row[i] < 0) {
      row[i] = to;
      return;
    }
  int at = first;
  Found worst{likeness(graph, from, row[first]), row[first], false};
  for (int i = first + 1; i < last; ++i) {
    const Found other{likeness(graph, from, row[i]), row[i], false};
    if (better(worst, other)) worst = other, at = i;
  }
  if (better({likeness(graph, from, to), to, false}, worst)) row[at] = to;
}

void GraphWalk::project(const Graph& graph, const int32_t* liked, int count) {
  const int32_t best = liked[0];
  int32_t* const row = row_of(graph, best);
  candidates_.clear();
  for (int i = 1; i < count; ++i) candidates_.push_back({likeness(graph, best, liked[i]), liked[i], false});
  for (int i = 0; i < graph.degree; ++i)
    if (row[i] >= 0 && std::find(liked, liked + count, row[i]) == liked + count)
      candidates_.push_back({likeness(graph, best, row[i]), row[i], false});
  choose(graph, best, candidates_, graph.degree);
  const std::vector<int32_t> linked = chosen_;
  std::fill(row, row + graph.degree, -1);
  std::copy(linked.begin(), linked.end(), row);
  for (int32_t key : linked) add(graph, key, best, 0, graph.degree);
}

void GraphWalk::connect(const Graph& graph, int32_t key, int list, long& seen) {
  candidates_ = search(graph, vector_of(graph, key), list, seen, key);
  choose(graph, key, candidates_, graph.width - graph.degree);
  const std::vector<int32_t> linked = chosen_;
  for (int32_t other : linked) {
    add(graph, key, other, graph.degree, graph.width);
    add(graph, other, key, graph.degree, graph.width);
  }
}

}  // namespace twofold
