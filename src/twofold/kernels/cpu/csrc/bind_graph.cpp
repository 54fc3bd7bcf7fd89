// Graphs over keys, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "bind.h"
#include "graph.h"
#include "kernels.h"
#include "stream.h"

namespace nb = nanobind;

namespace twofold {
namespace {

using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

Graph make_graph(uintptr_t keys, uintptr_t neighbours, int count, int dim, int degree, int width, int entry) {
  if (count < 1 || dim < 1 || degree < 1 || width <= degree || entry < 0 || entry >= count)
    throw std::invalid_argument("a graph has keys, more neighbours than those from queries, and a key to begin at");
  return {pointer<const float>(keys), pointer<int32_t>(neighbours), count, dim, width, degree, entry};
}

// nearest: [queries, most], best first. For each key that some queries like best, ascending, links it with all that
// these queries like.
void graph_project(const Graph& graph, uintptr_t nearest, long queries, long most) {
  const int32_t* const rows = pointer<const int32_t>(nearest);
  std::vector<long> order(queries);
  std::iota(order.begin(), order.end(), 0L);
  std::stable_sort(order.begin(), order.end(), [&](long a, long b) { return rows[a * most] < rows[b * most]; });
  GraphWalk walk;
  std::vector<int32_t> liked, last(graph.count, -1);
  for (long i = 0; i < queries;) {
    const int32_t best = rows[order[i] * most];
    liked.assign(1, best);
    last[best] = best;
    for (; i < queries && rows[order[i] * most] == best; ++i)
      for (long j = 1; j < most; ++j) {
        const int32_t key = rows[order[i] * most + j];
        if (last[key] != best) liked.push_back(key);
        last[key] = best;
      }
    if (liked.size() > 1) walk.project(graph, liked.data(), static_cast<int>(liked.size()));
  }
}

// Links the keys from `first` on with what searches for them find. Returns the inner products that this took.
long graph_extend(const Graph& graph, int first, int list) {
  GraphWalk walk;
  long seen = 0;
  for (int32_t key = first; key < graph.count; ++key) walk.connect(graph, key, list, seen);
  return seen;
}

// For each query [queries, dim] the `top` best keys that a walk finds, ascending by rank, -1 behind the last. Returns
// the inner products of all. Queries are shared among the stream's threads.
long graph_search(Stream& stream, const Graph& graph, uintptr_t queries, int count, int list, int top, uintptr_t out) {
  if (top > list) throw std::invalid_argument("a search keeps at least as many keys as it returns");
  const float* const vectors = pointer<const float>(queries);
  int32_t* const found = pointer<int32_t>(out);
  std::vector<long> seen(stream.threads(), 0);
  stream.submit({"graph-search", {[&](int member, int members) {
                   const Share mine = share(count, member, members);
                   GraphWalk walk;
                   for (long i = mine.first; i < mine.last; ++i) {
                     const auto& best = walk.search(graph, vectors + i * graph.dim, list, seen[member]);
                     int32_t* const row = found + i * top;
                     for (int j = 0; j < top; ++j) row[j] = j < static_cast<int>(best.size()) ? best[j].key : -1;
                   }
                 }}});
  long total = 0;
  for (long each : seen) total += each;
  return total;
}

}  // namespace

void bind_graph(nb::module_& m) {
  nb::class_<Graph>(m, "Graph", "Keys of one head, and the neighbours of each.")
      .def("__init__",
           [](Graph* self, uintptr_t keys, uintptr_t neighbours, int count, int dim, int degree, int width, int entry) {
             new (self) Graph(make_graph(keys, neighbours, count, dim, degree, width, entry));
           });
  m.def("graph_project", &graph_project, ReleaseGil());
  m.def("graph_extend", &graph_extend, ReleaseGil());
  m.def("graph_search", &graph_search, ReleaseGil());
}

}  // namespace twofold
