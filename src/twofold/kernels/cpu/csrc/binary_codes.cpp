#include "binary_codes.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "team.h"

namespace twofold {

namespace {

constexpr int kMost = 9;  // factors: eight of planes, and the offset

// The search on one group after the other. Sums of signed factors are kept from the least up; a weight's rank is that of
// the nearest.
class Search {
 public:
  Search(long size, int bits)
      : bits_(bits), sums_(1l << bits), rank_(size), values_(sums_), middles_(sums_ - 1), count_(sums_),
        total_(sums_), signs_(sums_), order_(sums_) {
    for (long code = 0; code < sums_; ++code)
      for (int i = 0; i <= bits; ++i) signs_[code].of[i] = i == bits || ((code >> i) & 1) != 0 ? 1.0 : -1.0;
    std::iota(order_.begin(), order_.end(), 0);
  }

  void run(const float* w, int rounds) {
    start(w);
    rank(w);
    for (int round = 0; round < rounds; ++round) {
      if (!count(w) && round > 0) return;  // the same ranks have the same factors
      fit();
      rank(w);
    }
  }

  float factor(int i) const { return static_cast<float>(factors_[i]); }
  uint8_t code(long i) const { return static_cast<uint8_t>(order_[rank_[i]]); }

 private:
  struct Signs {
    double of[kMost];
  };

  // Evenly spaced sums from the least weight to the largest.
  void start(const float* w) {
    const auto [low, high] = std::minmax_element(w, w + rank_.size());
    const double step = (static_cast<double>(*high) - *low) / static_cast<double>(sums_ - 1);
    for (int i = 0; i < bits_; ++i) factors_[i] = step * static_cast<double>(1l << i) / 2.0;
    factors_[bits_] = (static_cast<double>(*high) + *low) / 2.0;
  }

  void rank(const float* w) {
    for (long i = 0; i < sums_; ++i) {
      const int code = order_[i];
      double value = 0.0;
      for (int j = 0; j <= bits_; ++j) value += factors_[j] * signs_[code].of[j];
      // Into place: from turn to turn the order hardly changes.
      long at = i;
      for (; at > 0 && values_[at - 1] > value; --at) {
        values_[at] = values_[at - 1];
        order_[at] = order_[at - 1];
      }
      values_[at] = value;
      order_[at] = code;
    }
    for (long k = 0; k + 1 < sums_; ++k) middles_[k] = static_cast<float>((values_[k] + values_[k + 1]) / 2.0);
    const auto size = static_cast<long>(rank_.size());
    int32_t* ranks = rank_.data();
    for (long i = 0; i < size; ++i) ranks[i] = 0;
    for (const float middle : middles_)  // without branches: faster than a search for each weight
      for (long i = 0; i < size; ++i) ranks[i] += w[i] > middle;
  }

  // How many weights have each rank, and what they add up to; whether that is not as before.
  bool count(const float* w) {
    before_.swap(total_);
    count_.assign(sums_, 0.0);
    total_.assign(sums_, 0.0);
    for (size_t i = 0; i < rank_.size(); ++i) {
      count_[rank_[i]] += 1.0;
      total_[rank_[i]] += w[i];
    }
    return total_ != before_;
  }

  // The factors with the least squared error for the codes that the weights have.
  void fit() {
    const int n = bits_ + 1;
    double matrix[kMost][kMost] = {}, right[kMost] = {};
    for (long k = 0; k < sums_; ++k) {
      const Signs& signs = signs_[order_[k]];
      for (int i = 0; i < n; ++i) {
        right[i] += total_[k] * signs.of[i];
        for (int j = 0; j <= i; ++j) matrix[i][j] += count_[k] * signs.of[i] * signs.of[j];
      }
    }
    // Of two planes that are equal in a whole group each gets half.
    for (int i = 0; i < n; ++i) {
      matrix[i][i] += 1e-6 * static_cast<double>(rank_.size());
      for (int j = i + 1; j < n; ++j) matrix[i][j] = matrix[j][i];
    }
    // Elimination without pivots: the matrix is positive definite.
    for (int k = 0; k < n; ++k)
      for (int i = k + 1; i < n; ++i) {
        const double share = matrix[i][k] / matrix[k][k];
        for (int j = k; j < n; ++j) matrix[i][j] -= share * matrix[k][j];
        right[i] -= share * right[k];
      }
    for (int k = n - 1; k >= 0; --k) {
      for (int j = k + 1; j < n; ++j) right[k] -= matrix[k][j] * factors_[j];
      factors_[k] = right[k] / matrix[k][k];
    }
  }

  const int bits_;
  const long sums_;
  std::vector<int32_t> rank_;
  std::vector<double> values_;
  std::vector<float> middles_;
  std::vector<double> count_, total_, before_;
  std::vector<Signs> signs_;
  std::vector<int> order_;
  double factors_[kMost] = {};
};

}  // namespace

void binary_codes(const float* w, long count, long size, int bits, int rounds, int threads, uint8_t* codes,
                  float* alpha, float* z) {
  Team team(threads);
  team.run([&](int member) {
    team.attempt(0, [&] {
      Search search(size, bits);
      const Share part = share(count, member, threads);
      for (long g = part.first; g < part.last; ++g) {
        search.run(w + g * size, rounds);
        for (int i = 0; i < bits; ++i) alpha[g * bits + i] = search.factor(i);
        z[g] = search.factor(bits);
        for (long i = 0; i < size; ++i) codes[g * size + i] = search.code(i);
      }
    });
  });
}

}  // namespace twofold
