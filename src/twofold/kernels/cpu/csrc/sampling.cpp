#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels.h"

namespace twofold {
namespace {

// Value and index as one number that is larger the better: order-preserving bits of the value, then the index inverted.
uint64_t key_of(float value, int32_t index) {
  uint32_t bits;
  value += 0.0f;  // -0 becomes 0
  std::memcpy(&bits, &value, 4);
  bits ^= bits & 0x80000000u ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

// The generator of Matsumoto and Nishimura (1998), one block of words at a time.
class Twister {
 public:
  static constexpr int kWords = 624;

  explicit Twister(uint32_t seed) {
    state_[0] = seed;
    for (uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
  }

  // Goes on to the next block; before the first call there is none.
  void next_block() {
    constexpr int kAhead = 397, kBehind = kWords - kAhead;
    for (int i = 0; i < kBehind; ++i) state_[i] = state_[i + kAhead] ^ mixed(state_[i], state_[i + 1]);
    for (int i = kBehind; i < kWords - 1; ++i) state_[i] = state_[i - kBehind] ^ mixed(state_[i], state_[i + 1]);
    state_[kWords - 1] = state_[kAhead - 1] ^ mixed(state_[kWords - 1], state_[0]);
  }

  // Word i of the block.
  uint32_t word(int i) const {
    uint32_t y = state_[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  }

 private:
  static uint32_t mixed(uint32_t high, uint32_t low) {
    const uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (y >> 1) ^ ((0u - (y & 1u)) & 0x9908b0dfu);
  }

  uint32_t state_[kWords];
};

int32_t index_of(uint64_t key) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key)); }

}  // namespace

long top_k(const float* x, long n, long k, float* values, int64_t* ids, long* ties) {
  *ties = 0;
  k = std::min(k, n);
  if (k <= 0) return 0;
  const ElementwiseKernels& scan = kernels().elementwise;
  // Candidates above a threshold are collected in order; when they fill the room, the k best stay and the last of them
  // is the new threshold. A later element that equals it has a higher index, so only larger ones are looked for.
  const long room = 2 * k + 4 * kScanLanes;
  std::vector<uint64_t> keys;
  keys.reserve(room);
  std::vector<int32_t> found(room);
  float threshold = -std::numeric_limits<float>::infinity();
  for (long next = 0; next < n;) {
    const long count = scan.above(x, n, threshold, &next, found.data(), room - static_cast<long>(keys.size()));
    for (long i = 0; i < count; ++i) keys.push_back(key_of(x[found[i]], found[i]));
    if (next < n) {
      std::nth_element(keys.begin(), keys.begin() + (k - 1), keys.end(), std::greater<uint64_t>());
      keys.resize(k);
      threshold = x[index_of(keys[k - 1])];
    }
  }
  const long count = std::min<long>(k, keys.size());
  std::partial_sort(keys.begin(), keys.begin() + count, keys.end(), std::greater<uint64_t>());
  for (long i = 0; i < count; ++i) {
    ids[i] = index_of(keys[i]);
    values[i] = x[ids[i]];
  }
  if (count == 0) return 0;
  const float below = std::nextafter(values[count - 1], -std::numeric_limits<float>::infinity());
  *ties = scan.count_above(x, n, below) - count;
  return count;
}

void exponentials(uint32_t seed, const int64_t* ids, long count, float* out) {
  std::vector<long> order(count);
  std::iota(order.begin(), order.end(), 0L);
  std::sort(order.begin(), order.end(), [ids](long a, long b) { return ids[a] < ids[b]; });
  constexpr int64_t kPerBlock = Twister::kWords / 2;
  Twister twister(seed);
  int64_t block = -1;
  for (const long i : order) {
    for (; block < ids[i] / kPerBlock; ++block) twister.next_block();
    const int at = static_cast<int>(2 * (ids[i] % kPerBlock));
    const uint64_t bits = static_cast<uint64_t>(twister.word(at)) << 32 | twister.word(at + 1);
    const double u = static_cast<double>(bits & ((1ull << 53) - 1)) * 0x1p-53;
    out[i] = static_cast<float>(-std::log1p(-u));
  }
}

}  // namespace twofold
