// A graph over keys that leads queries to the keys with the largest inner products.
//
// Queries are distributed unlike keys, so that graphs of near keys lead them astray. This one links keys that the same
// queries like: each of some queries with its nearest keys makes a two-sided graph, of which only the keys are kept, a
// query's best key standing for it (RoarGraph, VLDB 2024).
#pragma once

#include <cstdint>
#include <vector>

namespace twofold {

// Keys of `dim` floats, one behind the other, and up to `width` neighbours of each, of which the first `degree` come
// from queries and the others were found by search; -1 where there are fewer.
struct Graph {
  const float* keys;
  int32_t* neighbours;  // [count, width]
  int32_t count, dim, width, degree;
  int32_t entry;  // where a search begins
};

// Searches and builds; holds the memory that this takes.
class GraphWalk {
 public:
  struct Found {
    float score;
    int32_t key;
    bool expanded;
  };

  // The keys that a walk over `graph` finds nearest to the query, at most `list` of them, best first. Equal scores are
  // in the order of their keys. `seen` counts the inner products. `skip`: a key that is left out.
  const std::vector<Found>& search(const Graph& graph, const float* query, int list, long& seen, int32_t skip = -1);

  // Links the keys that some queries have among their nearest to the one that they like best, which is the first.
  void project(const Graph& graph, const int32_t* liked, int count);

  // Links key `key` to what a search for it finds, both ways.
  void connect(const Graph& graph, int32_t key, int list, long& seen);

 private:
  void choose(const Graph& graph, int32_t key, std::vector<Found>& candidates, int most);
  void add(const Graph& graph, int32_t from, int32_t to, int first, int last);

  std::vector<uint32_t> visited_;
  uint32_t round_ = 0;
  std::vector<Found> found_, candidates_;
  std::vector<int32_t> chosen_;
};

}  // namespace twofold
